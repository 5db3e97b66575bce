"""Putting a checkpoint's weights into a loaded model, against loading it afresh, for several sizes of model.

Both include the digest of the files that identifies a checkpoint. The two take turns; medians, wall and CPU seconds.

    python benchmarks/swap.py --hidden 64 512 1024 --pairs 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generation import timed, widen

from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.huggingface.backend import HuggingFaceBackend
from tests.support.checkpoints import SEEING, build_checkpoint, small_args


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=SEEING, default="qwen2_5_vl", help="default: %(default)s")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 512, 1024], help="widths of the text tower")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {
        "what": f"{arguments.family}, in-place swap against a fresh load",
        "unit": "seconds",
        "sizes": [measure(arguments, hidden) for hidden in arguments.hidden],
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    print(json.dumps(figures, indent=1))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


def measure(arguments: argparse.Namespace, hidden: int) -> dict[str, Any]:
    family = arguments.family
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = [build_checkpoint(family, Path(folder) / name) for name in ("a", "b")]
        for checkpoint in checkpoints:
            widen(checkpoint, hidden, arguments.layers)
        backend = load(family, checkpoints[0])
        pairs = []
        for number in range(arguments.pairs):
            checkpoint = checkpoints[(number + 1) % 2]
            _, fresh_wall, fresh_cpu = timed(lambda checkpoint=checkpoint: load(family, checkpoint).close())
            _, swap_wall, swap_cpu = timed(lambda checkpoint=checkpoint: backend.swap(str(checkpoint)))
            pairs.append(
                {"fresh_wall": fresh_wall, "fresh_cpu": fresh_cpu, "swap_wall": swap_wall, "swap_cpu": swap_cpu}
            )
        size = sum(path.stat().st_size for path in checkpoints[0].glob("*.safetensors"))
    median = {name: statistics.median(pair[name] for pair in pairs) for name in pairs[0]}
    return {
        "megabytes": round(size / 1e6, 1),
        "gain": median["fresh_wall"] / median["swap_wall"],
        "cpu_gain": median["fresh_cpu"] / median["swap_cpu"],
        "median": median,
    }


def load(family: str, checkpoint: Path) -> HuggingFaceBackend:
    backend = registry.create(family, {"pretrained": str(checkpoint), **small_args(family)}, device="cpu")
    assert isinstance(backend, HuggingFaceBackend)
    return backend


if __name__ == "__main__":
    main()

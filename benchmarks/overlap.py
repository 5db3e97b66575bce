"""Whether preparation overlaps generation: a job whose samples cost as much to decode as to answer.

Answers digits with a tiny model, first as they are, which gives the cost of generating per sample, then with that cost,
as a sleep, added to every sample: in the task's own functions, which the engine runs one at a time, or in decoding,
which its preparing threads share. The ratio is the whole's time over the larger of generation and added cost: 2 would
be no overlap, 1 a perfect one. Plain and loaded runs take turns; the ratios are medians.

Where the cost is in the task's functions, 1.25 is about the least that any cutting into batches could reach with 300
samples: nothing can be answered before it is fetched, so the last batch comes after the whole cost, and smaller batches
take longer altogether (each about 50 ms here, whatever its size). With 1,000 samples it is 1.14.

    python benchmarks/overlap.py --samples 300 --pairs 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generation import QUESTION, read_documents, widen

from lmms_eval_grpc.engine.data.media.cache import MediaCache
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.huggingface.backend import HuggingFaceBackend
from lmms_eval_grpc.engine.models.huggingface.prefetch import count_threads
from lmms_eval_grpc.engine.models.protocol import GenerationRequest
from tests.support.checkpoints import build_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=256, help="width of the text tower (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments)
    print(json.dumps(figures, indent=1))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    checkpoint = build_checkpoint("idefics3", folder / "checkpoint")
    widen(checkpoint, arguments.hidden, 4)
    backend = registry.create("idefics3", {"pretrained": str(checkpoint)}, device="cpu")
    assert isinstance(backend, HuggingFaceBackend)
    images = read_documents(arguments.samples, folder)["image"]
    requests = [ask(image.convert("RGB"), arguments.tokens) for image in images]
    run(backend, requests)
    ratios: dict[str, list[float]] = {"task": [], "decoding": []}
    runs: list[dict[str, Any]] = []
    for number in range(2 * arguments.pairs):
        place = ("task", "decoding")[number % 2]
        generation = run(backend, requests)
        cost = generation / len(requests)
        whole = run(backend, Slow(requests, cost)) if place == "task" else run_slow_decoding(backend, requests, cost)
        # What the machine was worth may have changed meanwhile; generation is timed on both sides.
        generation = (generation + run(backend, requests)) / 2
        larger = max(generation, cost * len(requests))
        ratios[place].append(whole / larger)
        runs.append({"cost_in": place, "generation": generation, "cost": cost * len(requests), "whole": whole})
    return {
        "what": f"{arguments.samples} digits, {arguments.tokens} new tokens, Idefics3 of width {arguments.hidden}",
        "unit": "seconds",
        "ratio_cost_in_task": statistics.median(ratios["task"]),
        "ratio_cost_in_decoding": statistics.median(ratios["decoding"]),
        "ratios": ratios,
        "preparing_threads": count_threads(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "runs": runs,
    }


def ask(image: Any, tokens: int) -> GenerationRequest:
    content = [{"type": "image", "url": image}, {"type": "text", "text": QUESTION}]
    return GenerationRequest([{"role": "user", "content": content}], {"max_new_tokens": tokens})


class Slow(Sequence[GenerationRequest]):
    """Requests whose building takes ``cost`` seconds each, as a task's functions that decode do."""

    def __init__(self, requests: Sequence[GenerationRequest], cost: float) -> None:
        self.requests, self.cost = requests, cost

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: Any) -> Any:
        time.sleep(self.cost)
        return self.requests[index]


def run(backend: HuggingFaceBackend, requests: Sequence[GenerationRequest]) -> float:
    began = time.perf_counter()
    answers = [answer for batch in backend.generate(requests) for answer in batch]
    assert len(answers) == len(requests)
    assert all(answer.response.error is None for answer in answers)
    return time.perf_counter() - began


def run_slow_decoding(backend: HuggingFaceBackend, requests: Sequence[GenerationRequest], cost: float) -> float:
    decode = MediaCache.image

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(cost)
        return decode(*arguments, **options)

    MediaCache.image = slow  # type: ignore[method-assign]
    try:
        return run(backend, requests)
    finally:
        MediaCache.image = decode  # type: ignore[method-assign]


if __name__ == "__main__":
    main()

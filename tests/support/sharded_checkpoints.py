"""Checkpoints as real FSDP2 training leaves them: two processes over gloo, an optimizer that has stepped, EMA weights.

``python -m tests.support.sharded_checkpoints OUT NAME=CHECKPOINT …`` makes, of each checkpoint that ``from_pretrained``
loads, a folder ``OUT/NAME``:

- ``run/checkpoint-10``: Accelerate's layout (``pytorch_model_fsdp_0``, ``optimizer_0``), configuration and processor
  in ``run``;
- ``app``: everything in one ``torch.distributed.checkpoint``, nested, with EMA weights and other state beside;
- ``engine/checkpoint-10``: lmms-engine's layout, one file per rank, EMA in a folder of its own;
- ``plain`` and ``plain_ema``: the same weights, unsharded, as ``save_pretrained`` writes them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
import transformers
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

RANKS = 2
STEP = "checkpoint-10"


@dataclass(frozen=True)
class ShardedFolders:
    """Where the checkpoints of one model are."""

    folder: Path

    @property
    def accelerate(self) -> Path:
        return self.folder / "run" / STEP

    @property
    def app(self) -> Path:
        return self.folder / "app"

    @property
    def engine(self) -> Path:
        return self.folder / "engine" / STEP

    def plain(self, ema: bool = False) -> Path:
        return self.folder / ("plain_ema" if ema else "plain")


def shard_checkpoints(out: Path, sources: Mapping[str, Path]) -> dict[str, ShardedFolders]:
    """Makes them all in one process of its own, whose ranks are forked from it."""
    words = [f"{name}={path}" for name, path in sources.items()]
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(out), *words],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: ShardedFolders(out / name) for name in sources}


def load_model(folder: Path) -> Any:
    """The model of a tiny checkpoint, by the class that its configuration names."""
    config = transformers.AutoConfig.from_pretrained(folder)
    return getattr(transformers, config.architectures[0]).from_pretrained(folder)


def save_per_rank(state: Mapping[str, Any], folder: Path) -> None:
    """As lmms-engine and verl do."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"model_world_size_{dist.get_world_size()}_rank_{dist.get_rank()}.pt"
    torch.save(dict(state), folder / name)


def shard_model(model: Any) -> None:
    """FSDP2 on every decoder layer, then on the whole."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in model.modules():
        if type(module).__name__.endswith(("DecoderLayer", "EncoderLayer")):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _shard_one(folders: ShardedFolders, source: Path) -> None:
    model = load_model(source)
    shard_model(model)
    # A step so small that a trained model still knows what it knew, and so large that every weight is another.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state, optimizer_state = get_state_dict(model, optimizer)
    ema = {name: value * 0.5 if value.is_floating_point() else value for name, value in state.items()}

    dcp.save({"model": state}, checkpoint_id=folders.accelerate / "pytorch_model_fsdp_0")
    dcp.save({"optimizer": optimizer_state}, checkpoint_id=folders.accelerate / "optimizer_0")
    everything = {
        "app": {"model": state, "optim": optimizer_state},
        "ema": {"module": ema, "n_averaged": torch.tensor(3)},
        "step": 10,
        "rng": torch.get_rng_state(),
    }
    dcp.save(everything, checkpoint_id=folders.app)
    save_per_rank(state, folders.engine / "pytorch_model_fsdp_0")
    save_per_rank(ema, folders.engine / "pytorch_ema_model_fsdp_0")
    if dist.get_rank() == 0:
        for folder in (folders.accelerate.parent, folders.app, folders.engine):
            _copy_but_weights(source, folder)
    for values, folder in ((state, folders.plain()), (ema, folders.plain(ema=True))):
        whole = {
            name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in values.items()
        }
        if dist.get_rank() == 0:
            unsharded = load_model(source)
            unsharded.load_state_dict(whole)
            unsharded.save_pretrained(folder)
            _copy_but_weights(source, folder)


def _copy_but_weights(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, folder)


def _work(rank: int, ranks: int, out: Path, sources: Mapping[str, Path]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=ranks)
    for name, source in sources.items():
        _shard_one(ShardedFolders(out / name), source)
    dist.barrier()
    dist.destroy_process_group()


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    out = Path(words[0])
    out.mkdir(parents=True, exist_ok=True)
    sources = {name: Path(path) for name, _, path in (word.partition("=") for word in words[1:])}
    torch.multiprocessing.start_processes(_work, (RANKS, out, sources), nprocs=RANKS, start_method="fork")


if __name__ == "__main__":
    main(sys.argv[1:])

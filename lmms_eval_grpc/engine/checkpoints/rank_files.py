"""Shards in one file per rank: ``model_world_size_8_rank_0.pt``, what ``torch.save(fsdp2_model.state_dict())`` wrote.

torch would load each file whole. Here only what the files say of their tensors is loaded, and the values are read from
where they lie, straight into the tensor that is being put together.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor, Replicate, Shard

from lmms_eval_grpc.engine.checkpoints.layouts import RANK_FILE
from lmms_eval_grpc.engine.checkpoints.pieces import Piece, assemble
from lmms_eval_grpc.engine.checkpoints.shards import StoredTensor, unreadable


@dataclass(slots=True)
class _Whole:
    stored: StoredTensor
    pieces: dict[tuple[int, ...], Piece] = field(default_factory=dict)
    """By where they begin: ranks that hold the same part count once."""


class RankFiles:
    """A :class:`~lmms_eval_grpc.engine.checkpoints.shards.Shards`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wholes: dict[str, _Whole] = {}
        others: dict[str, None] = {}
        for rank, path in enumerate(_rank_files(folder)):
            described, real = _load_descriptions(path)
            for key, value in described.items():
                if isinstance(value, torch.Tensor):
                    self._add(str(key), rank, path, value, real[key])
                else:
                    others[str(key)] = None
        self._others = tuple(others)
        for key, whole in self._wholes.items():
            held = sum(math.prod(piece.shape) for piece in whole.pieces.values())
            if held != math.prod(whole.stored.shape):
                raise unreadable(folder, f"of {key} the files hold {held} of {math.prod(whole.stored.shape)} values")

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        return {key: whole.stored for key, whole in self._wholes.items()}

    @property
    def others(self) -> Sequence[str]:
        return self._others

    def read(self, key: str) -> torch.Tensor:
        whole = self._wholes[key]
        try:
            return assemble(whole.stored.shape, whole.stored.dtype, whole.pieces.values())
        except (OSError, EOFError) as error:
            raise unreadable(self._folder, f"{key}: {error}") from error

    def _add(self, key: str, rank: int, path: Path, described: torch.Tensor, real: torch.Tensor) -> None:
        """Takes in one rank's part of a tensor: ``described`` knows where its values lie, ``real`` what its mesh is."""
        if isinstance(described, DTensor):
            local = described._local_tensor
            offsets = self._offsets(key, rank, real)
        else:
            local, offsets = described, (0,) * described.dim()
        if local.numel() and not local.is_contiguous():
            raise unreadable(self._folder, f"{key} is not contiguous in {path.name}")
        stored = StoredTensor(tuple(described.shape), described.dtype)
        whole = self._wholes.setdefault(key, _Whole(stored))
        if whole.stored != stored:
            raise unreadable(self._folder, f"{key} has another shape or type in {path.name} than in the first file")
        start = getattr(local.untyped_storage(), "_checkpoint_offset", None)
        if start is None:
            why = f"torch {torch.__version__} does not tell where in {path.name} a tensor lies; a newer one does"
            raise unreadable(self._folder, why)
        position = start + int(local.storage_offset()) * local.dtype.itemsize
        piece = Piece(path, position, offsets, tuple(local.shape))
        if local.numel() or not described.numel():
            whole.pieces.setdefault(offsets, piece)

    def _offsets(self, key: str, rank: int, tensor: Any) -> tuple[int, ...]:
        """Where the part of ``rank`` begins in the whole, by torch's rule: pieces of ``ceil(length / ranks)``."""
        place = (tensor.device_mesh.mesh == rank).nonzero()
        if len(place) != 1:
            raise unreadable(self._folder, f"rank {rank} is not on the device mesh of {key}")
        offsets, lengths = [0] * tensor.dim(), list(tensor.shape)
        for coordinate, ranks, placement in zip(
            place[0].tolist(), tensor.device_mesh.mesh.shape, tensor.placements, strict=True
        ):
            if type(placement) is Replicate:
                continue
            if type(placement) is not Shard:
                raise unreadable(
                    self._folder,
                    f"{key} is placed as {placement}, which needs the parallel layout of the run; save with"
                    " torch.distributed.checkpoint",
                )
            dimension = placement.dim % tensor.dim()
            step = -(-lengths[dimension] // ranks)
            start = min(coordinate * step, lengths[dimension])
            offsets[dimension] += start
            lengths[dimension] = min(step, lengths[dimension] - start)
        return tuple(offsets)


def _rank_files(folder: Path) -> list[Path]:
    """The files of ranks 0, 1, 2, …; all of one run."""
    found: dict[int, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = RANK_FILE.fullmatch(path.name)
        if match is not None:
            found.setdefault(int(match[1]), {})[int(match[2])] = path
    if len(found) != 1:
        sizes = ", ".join(map(str, sorted(found)))
        raise unreadable(folder, f"there are files of runs with {sizes} ranks; leave those of one")
    ((ranks, files),) = found.items()
    missing = [rank for rank in range(ranks) if rank not in files]
    if missing:
        raise unreadable(folder, f"of {ranks} ranks the files of these are missing: {', '.join(map(str, missing))}")
    return [files[rank] for rank in range(ranks)]


def _load_descriptions(path: Path) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """What the file says of its tensors, twice, each without their values in memory.

    First as fake tensors, which know at which byte of the file their values begin; then mapped from the file, so that
    the few numbers of a device mesh are there to be looked at.
    """
    try:
        with _quietly():
            with FakeTensorMode():
                described = torch.load(path, map_location="cpu", weights_only=True)
            real = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of a file that others wrote
        why = str(error).strip().splitlines()
        raise unreadable(path.parent, f"{path.name}: {type(error).__name__}: {why[0] if why else ''}") from error
    if not isinstance(described, dict) or not isinstance(real, dict):
        raise unreadable(path.parent, f"{path.name} is not a state dictionary")
    return described, real


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's remarks that there are no process groups, which nothing here needs."""
    log = logging.getLogger("torch.distributed.device_mesh")
    disabled = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.disabled = disabled

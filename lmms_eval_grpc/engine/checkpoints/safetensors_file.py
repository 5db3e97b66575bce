"""Writing safetensors files tensor by tensor, so that only one is in memory.

The format: 8 bytes with the length of the header, little-endian; the header, a JSON object from each tensor's name to
its type, shape and place; then the values, one tensor after another without gaps.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lmms_eval_grpc.engine.api import EvaluationError

DEFAULT_MAX_BYTES = 5_000_000_000
"""Of one file, as ``save_pretrained`` has had it."""
BLOCK = 64 * 1024 * 1024
"""Bytes written between two looks at whether to stop."""

_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
"""In the order of the safetensors library, which is one of growing width."""
_ORDER = {dtype: position for position, dtype in enumerate(_TYPES)}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor that is to be written."""

    name: str
    key: str
    """What it is read by."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int


def plan_files(tensors: Sequence[PlannedTensor], max_bytes: int) -> dict[str, list[PlannedTensor]]:
    """Which tensors go into which file, by the names that ``from_pretrained`` expects.

    A file holds at most ``max_bytes`` of values, or one tensor that is larger.
    """
    groups: list[list[PlannedTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.nbytes > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{n:05}-of-{len(groups):05}.safetensors": group for n, group in enumerate(groups, start=1)}


def write_index(folder: Path, files: dict[str, list[PlannedTensor]]) -> None:
    """``model.safetensors.index.json``, which says in which file each tensor is."""
    total = sum(tensor.nbytes for group in files.values() for tensor in group)
    places = {tensor.name: name for name, group in files.items() for tensor in group}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_file(
    path: Path,
    tensors: Sequence[PlannedTensor],
    read: Callable[[str], torch.Tensor],
    wrote: Callable[[int], None],
) -> None:
    """Writes one file, synced to disk. ``wrote`` is told of every block, in bytes; what it raises ends the writing."""
    # As the library does: the same tensors make the same file, and all begin at a multiple of their width.
    ordered = sorted(tensors, key=lambda tensor: (-_ORDER.get(tensor.dtype, 0), tensor.name))
    with path.open("wb", buffering=0) as file:
        _write_all(file, memoryview(_header(ordered)))
        for planned in ordered:
            _write_values(file, read(planned.key), wrote)
        os.fsync(file.fileno())


def _write_values(file: io.FileIO, tensor: torch.Tensor, wrote: Callable[[int], None]) -> None:
    """A function of its own, so that nothing holds the tensor any more when the next one is read."""
    for block in _blocks(tensor):
        _write_all(file, block)
        wrote(len(block))


def _header(tensors: Sequence[PlannedTensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        if tensor.dtype not in _TYPES:
            why = f"{tensor.name} has the type {tensor.dtype}, which safetensors files do not know"
            raise EvaluationError("UNSUPPORTED_DTYPE", why)
        place = [position, position + tensor.nbytes]
        entries[tensor.name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        position += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The values of a contiguous tensor, without a copy."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _blocks(tensor: torch.Tensor) -> Iterator[memoryview]:
    buffer = bytes_of(tensor)
    for start in range(0, len(buffer), BLOCK):
        yield buffer[start : start + BLOCK]


def _write_all(file: io.FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]

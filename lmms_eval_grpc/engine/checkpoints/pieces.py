"""Parts of tensors as bytes in files, and the whole put together from them without a second copy in memory."""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

_BLOCK = 64 * 1024 * 1024
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""What files call the types of old; later ones go by their own names."""
_LOCAL_HEADER = 30
"""Bytes of the header before each member of a zip file, without its name and extra field."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous part of a tensor, and where its values lie."""

    path: Path
    position: int
    """Of its first byte in the file."""
    offsets: tuple[int, ...]
    """Where in the whole tensor it begins."""
    shape: tuple[int, ...]


def assemble(shape: tuple[int, ...], dtype: torch.dtype, pieces: Iterable[Piece]) -> torch.Tensor:
    """The whole tensor. Raises OSError, and EOFError for a file that is cut short."""
    whole = torch.empty(shape, dtype=dtype)
    for piece in pieces:
        if not math.prod(piece.shape):
            continue
        part = whole
        for dimension, (offset, length) in enumerate(zip(piece.offsets, piece.shape, strict=True)):
            part = part.narrow(dimension, offset, length)
        # A part along the first dimension is contiguous in the whole; any other takes a copy of itself.
        target = part if part.is_contiguous() else torch.empty(piece.shape, dtype=dtype)
        _read_into(target, piece)
        if target is not part:
            part.copy_(target)
    return whole


def _read_into(target: torch.Tensor, piece: Piece) -> None:
    buffer = memoryview(target.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    with piece.path.open("rb", buffering=0) as file:
        file.seek(piece.position)
        done = 0
        while done < len(buffer):
            count = file.readinto(buffer[done : done + _BLOCK])
            if not count:
                raise EOFError(f"the file {piece.path.name} is cut short")
            done += count


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """What a file of ``torch.save`` says of the one tensor in it."""

    position: int
    """Of its first byte, from the start of the file of ``torch.save``."""
    dtype: torch.dtype
    shape: tuple[int, ...]


def locate_tensor(file: IO[bytes], start: int, length: int) -> SavedTensor | None:
    """Where the values of a tensor lie that ``torch.save`` wrote into the ``length`` bytes from ``start``.

    None where it is stored in some other way than contiguous and uncompressed, so that torch has to read it.
    """
    try:
        with zipfile.ZipFile(_Window(file, start, length)) as archive:
            (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(pickled) as stream:
                found = _TensorUnpickler(stream).load()
            if not isinstance(found, _Found) or not found.contiguous:
                return None
            member = archive.getinfo(f"{pickled.removesuffix('.pkl')}/{found.storage.key}")
            if member.compress_type != zipfile.ZIP_STORED:
                return None
        file.seek(start + member.header_offset)
        name_length, extra_length = struct.unpack_from("<HH", file.read(_LOCAL_HEADER), 26)
    except (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None
    begin = member.header_offset + _LOCAL_HEADER + name_length + extra_length
    return SavedTensor(begin + found.offset * found.dtype.itemsize, found.dtype, found.shape)


class _Window:
    """A part of a file, as a file of its own for ``zipfile``."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._start, self._length, self._place = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = (0, self._place, self._length)[whence] + offset
        return self._place

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._length - self._place)
        self._file.seek(self._start + self._place)
        data = self._file.read(left if count < 0 else min(count, left))
        self._place += len(data)
        return data


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Found:
    storage: _Storage
    offset: int
    """In values."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @property
    def contiguous(self) -> bool:
        expected = 1
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length != 1 and stride != expected:
                return False
            expected *= length
        return True


class _TensorUnpickler(pickle.Unpickler):
    """Makes the description of a tensor out of what would make the tensor, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor_v3":
                return _rebuild
            case "collections", "OrderedDict":
                return dict
            case "torch.storage", "UntypedStorage":
                return torch.uint8
            case "torch", _ if name in _STORAGES:
                return _STORAGES[name]
            case "torch", _ if isinstance(getattr(torch, name, None), torch.dtype):
                return getattr(torch, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a plain tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, _ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"{kind!r} is no storage")
        return _Storage(key, dtype)


def _rebuild(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    dtype: torch.dtype | None = None,
    metadata: Any = None,
) -> _Found:
    # What comes seventh is the type for new types and the metadata, which plain tensors do not have, for others.
    if metadata is not None or not (dtype is None or isinstance(dtype, torch.dtype)):
        raise pickle.UnpicklingError("it has metadata")
    return _Found(storage, offset, tuple(shape), tuple(strides), dtype or storage.dtype)

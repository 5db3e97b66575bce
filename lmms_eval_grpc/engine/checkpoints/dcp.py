"""Shards that ``torch.distributed.checkpoint`` wrote: ``.metadata`` and ``*.distcp``."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from lmms_eval_grpc.engine.checkpoints.pieces import Piece, assemble, locate_tensor
from lmms_eval_grpc.engine.checkpoints.shards import StoredTensor, unreadable

_METADATA_MODULES = frozenset(
    {
        "torch.distributed.checkpoint.metadata",
        "torch.distributed.checkpoint.filesystem",
        "torch.distributed._shard.sharded_tensor.metadata",  # of torch before 2.3
    }
)
_HARMLESS = frozenset(
    {
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),
        ("pathlib", "PurePosixPath"),
        ("pathlib._local", "PosixPath"),
        ("pathlib._local", "PurePosixPath"),
    }
)


class DistributedCheckpoint:
    """A :class:`~lmms_eval_grpc.engine.checkpoints.shards.Shards`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader = _Reader(folder)
        metadata = self._reader.read_metadata()
        paths = metadata.planner_data if isinstance(metadata.planner_data, dict) else {}
        self._tensors: dict[str, StoredTensor] = {}
        others = []
        for key, stored in metadata.state_dict_metadata.items():
            if not isinstance(stored, TensorStorageMetadata):
                others.append(key)
                continue
            path = paths.get(key, ())
            container = ".".join(map(str, path[:-1]))
            self._tensors[key] = StoredTensor(tuple(stored.size), stored.properties.dtype, container)
            held = sum(chunk.sizes.numel() for chunk in stored.chunks)
            if held != stored.size.numel():
                raise unreadable(folder, f"of {key} the shards hold {held} of {stored.size.numel()} values")
        self._others = tuple(others)
        self._check_files(metadata)

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        return self._tensors

    @property
    def others(self) -> tuple[str, ...]:
        return self._others

    def read(self, key: str) -> torch.Tensor:
        stored = self._tensors[key]
        try:
            pieces = self._locate(key)
            if pieces is not None:
                return assemble(stored.shape, stored.dtype, pieces)
            # Compressed, or in some form of a later torch: it can read that, with more memory.
            tensor = torch.empty(stored.shape, dtype=stored.dtype)
            with warnings.catch_warnings(action="ignore"):  # that there is one process only
                load({key: tensor}, storage_reader=self._reader, no_dist=True)
        except (Exception, CheckpointException) as error:  # of files that others wrote; torch's own is no Exception
            raise unreadable(self._folder, f"{key}: {_innermost(error)}") from error
        return tensor

    def _locate(self, key: str) -> list[Piece] | None:
        """Where the parts of a tensor lie; None if that cannot be told of all of them."""
        metadata = self._reader.read_metadata()
        stored, found = metadata.state_dict_metadata[key], []
        assert isinstance(stored, TensorStorageMetadata)  # _tensors has no others
        for chunk in stored.chunks:
            place = metadata.storage_data[MetadataIndex(key, chunk.offsets)]
            if getattr(place, "transform_descriptors", None):
                return None
            path = self._folder / place.relative_path
            with path.open("rb") as file:
                saved = locate_tensor(file, place.offset, place.length)
            if saved is None or saved.dtype != stored.properties.dtype or saved.shape != tuple(chunk.sizes):
                return None
            found.append(Piece(path, place.offset + saved.position, tuple(chunk.offsets), saved.shape))
        return found

    def _check_files(self, metadata: Metadata) -> None:
        """Whether all files are there, and as long as the metadata has it: a copy may have been cut short."""
        ends: dict[str, int] = {}
        for stored in metadata.storage_data.values():
            if Path(stored.relative_path).name != stored.relative_path:
                # Whoever wrote it may not name other files of this machine.
                raise unreadable(self._folder, f"it names the file {stored.relative_path}, which is elsewhere")
            ends[stored.relative_path] = max(ends.get(stored.relative_path, 0), stored.offset + stored.length)
        for name, end in sorted(ends.items()):
            path = self._folder / name
            if not path.is_file():
                raise unreadable(self._folder, f"the file {name} is missing")
            if path.stat().st_size < end:
                raise unreadable(self._folder, f"the file {name} has {path.stat().st_size} bytes instead of {end}")


class _Reader(FileSystemReader):
    """Torch's reader with metadata that is read once, and not trusted: it is a pickle, which could run any code."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._metadata = _read_metadata(folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._metadata


def _read_metadata(folder: Path) -> Metadata:
    try:
        with (folder / ".metadata").open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
    except Exception as error:  # a damaged pickle raises anything
        raise unreadable(folder, f".metadata: {type(error).__name__}: {error}") from error
    if not isinstance(metadata, Metadata) or metadata.storage_data is None:
        raise unreadable(folder, ".metadata does not describe a checkpoint of torch.distributed.checkpoint")
    if getattr(metadata, "storage_meta", None) is None:  # of torch before 2.3
        metadata.storage_meta = StorageMeta()
    return metadata


class _MetadataUnpickler(pickle.Unpickler):
    """Makes nothing but what metadata consists of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS:
            return getattr(importlib.import_module(module), name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in _METADATA_MODULES and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            if dataclasses.is_dataclass(found) or (isinstance(found, type) and issubclass(found, enum.Enum)):
                return found
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")


def _member(kind: Any, name: str) -> Any:
    """In place of ``getattr``, by which Python 3.11.0 to 3.11.3 pickle the members of enumerations."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum) and name in kind.__members__:
        return kind[name]
    raise pickle.UnpicklingError(f"it asks {kind!r} for {name!r}, which no checkpoint needs")


def _innermost(error: BaseException) -> str:
    """What happened, without torch's stack of wrappers."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__}: {str(error).partition('. ')[0]}"

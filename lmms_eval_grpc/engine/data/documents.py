"""A split's documents, one by one: with decoded media, without media, and as digests."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.data.digest import digest_value
from lmms_eval_grpc.engine.data.recordings import decode_recording, without_decoding
from lmms_eval_grpc.engine.data.rows import Rows


class Documents:
    """The evaluated split of one task, after its ``process_docs``. Media are decoded when a document is asked for."""

    def __init__(self, task: str, dataset: Any, process_docs: Callable[[Any], Any] | None = None) -> None:
        """``dataset`` is a ``datasets.Dataset``.

        Raises EvaluationError TASK_LOAD_FAILED when ``process_docs`` raises or returns something else.
        """
        self._made = process_docs is not None
        self._dataset = _processed(task, without_decoding(dataset), process_docs)
        media = {name: kind for name, feature in self._dataset.features.items() if (kind := _media_kind(feature))}
        self._recordings = {
            name: self._dataset.features[name] for name, kind in media.items() if kind in ("audio", "video")
        }
        # A dataset without any column forgets how long it is, so there is none for documents of media alone.
        only_media = len(media) == len(self._dataset.column_names)
        self._plain = None if only_media else self._dataset.remove_columns(list(media))
        self._rows = Rows(self._dataset)
        self._plain_rows = None if self._plain is None else Rows(self._plain)
        self.columns: tuple[str, ...] = tuple(self._dataset.column_names)
        """Column names, media included."""

    def __len__(self) -> int:
        return len(self._dataset)

    def with_media(self, doc_id: int) -> dict[str, Any]:
        """Document ``doc_id``. Raises what decoding raises when a medium is corrupt.

        Images are PIL images. Audio is a mapping of ``array`` (one channel), ``sampling_rate`` and ``path``. A video is
        its path, or a mapping with ``bytes`` where the dataset holds the file itself.
        """
        document = self._rows[doc_id]
        for name, feature in self._recordings.items():
            document[name] = decode_recording(feature, document[name])
        return document

    def without_media(self, doc_id: int) -> dict[str, Any]:
        """Document ``doc_id`` without its media columns: cheap, nothing is decoded."""
        return {} if self._plain_rows is None else self._plain_rows[doc_id]

    def digest(self, doc_id: int) -> str:
        """SHA-256 over all of document ``doc_id``, the undecoded bytes of its media included."""
        return digest_value(self._rows.stored(doc_id))

    @functools.cached_property
    def order_digest(self) -> str:
        """SHA-256 over which documents there are, and in which order; empty where no ``process_docs`` made them.

        Media do not count, unless there is nothing else: what ``process_docs`` does to documents shows without.
        """
        if not self._made:
            return ""
        digest = hashlib.sha256()
        rows = (self._dataset if self._plain is None else self._plain).with_format("arrow")
        for start in range(0, len(rows), _ROWS):
            for document in rows[start : start + _ROWS].to_pylist():
                digest.update(digest_value(document).encode())
        return digest.hexdigest()


def dataset_fingerprint(dataset: Any, path: Path | None, data_files: Any) -> str:
    """A digest of the data that a task reads.

    Over the content of local files where the data comes from such files, so that it is the same on every machine; else
    the fingerprint that the ``datasets`` library derives from the hub's revision.
    """
    files = _local_files(data_files) or (_files_below(path) if path is not None else [])
    if not files:
        return str(dataset._fingerprint)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {_file_digest(file)}\n".encode())
    return digest.hexdigest()


_MAX_HASHED_BYTES = 1 << 30
_BLOCKS, _BLOCK_BYTES = 1024, 1 << 16
"""Of a larger file, spread evenly over it, its beginning and its end among them: 64 MiB."""
_ROWS = 1000
"""Documents that are looked at together."""


def _file_digest(file: Path) -> str:
    status = file.stat()
    with file.open("rb") as stream:
        if status.st_size <= _MAX_HASHED_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        # Reading it whole would cost more than the certainty is worth. The time tells of changes between the blocks.
        digest = hashlib.sha256(json.dumps([status.st_size, status.st_mtime_ns]).encode())
        last = status.st_size - _BLOCK_BYTES
        for number in range(_BLOCKS):
            stream.seek(last * number // (_BLOCKS - 1))
            digest.update(stream.read(_BLOCK_BYTES))
        return digest.hexdigest()


def _local_files(data_files: Any) -> list[Path]:
    if isinstance(data_files, Mapping):
        return [file for value in data_files.values() for file in _local_files(value)]
    if isinstance(data_files, list | tuple):
        return [file for value in data_files for file in _local_files(value)]
    if not isinstance(data_files, str):
        return []
    path = Path(data_files)
    if path.is_file():
        return [path]
    return sorted(path.parent.glob(path.name)) if any(sign in path.name for sign in "*?[") else []


def _files_below(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith((".", "cache-")))


def _processed(task: str, dataset: Any, process_docs: Callable[[Any], Any] | None) -> Any:
    import datasets

    if process_docs is not None:
        try:
            dataset = process_docs(dataset)
        except Exception as error:
            message = f"task {task}: process_docs failed: {type(error).__name__}: {error}"
            raise EvaluationError("TASK_LOAD_FAILED", message) from error
    if not isinstance(dataset, datasets.Dataset):
        message = f"task {task}: process_docs must return a datasets.Dataset, but returned {type(dataset).__name__}"
        raise EvaluationError("TASK_LOAD_FAILED", message)
    return dataset


def _media_kind(feature: Any) -> str:
    """``image``, ``audio`` or ``video`` for a column of such, alone or in a list; empty for any other."""
    while isinstance(feature, list) or hasattr(feature, "feature"):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    kind = type(feature).__name__.lower()
    return kind if kind in ("image", "audio", "video") else ""

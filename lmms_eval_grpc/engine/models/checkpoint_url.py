"""Checkpoints that are named by a URL: anything that fsspec reads, such as ``s3://``, ``gs://``, ``hf://``, ``file://``.

A model is loaded from a copy on this machine's disk. What is made of it goes by the URL and by the weights' digest, so
it is the same on every machine, wherever the copy lies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.checkpoint_cache import default_cache
from lmms_eval_grpc.engine.models.checkpoint_files import is_training_leftover
from lmms_eval_grpc.engine.record.redact import redact

_log = logging.getLogger(__name__)

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "md5", "content_md5", "checksum", "crc32c", "generation", "blob_id", "version"),
    *("mtime", "LastModified", "last_modified", "updated", "modified", "created"),
)
"""Where file systems say which content a file has, or since when; the best first."""
_SUBFOLDERS = ("additional_chat_templates",)
"""Of a checkpoint's folders those that transformers reads."""
_STREAMS = 4
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    path: str
    name: str
    """Below the checkpoint's folder."""
    size: int
    version: str


@dataclass(frozen=True, slots=True)
class LocalCheckpoint:
    """What an evaluation runs with in the place of URLs."""

    config: EvaluationConfig
    copies: Mapping[str, str]
    """URLs by the folder of the copy."""

    def rename(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """``identity`` with URLs in the place of the copies' folders."""
        renamed = _rename(dict(identity), self.copies)
        assert isinstance(renamed, dict)
        return renamed


def is_url(text: Any) -> bool:
    """Whether a ``pretrained`` is a URL and neither a folder nor an id of the hub."""
    return isinstance(text, str) and _URL.match(text) is not None


def url_problem(url: str) -> str:
    """What is wrong with the URL as far as that can be seen without a connection; empty when nothing is."""
    import fsspec

    scheme = url.partition("://")[0]
    if scheme not in fsspec.available_protocols():
        return f"{url!r}: fsspec knows no scheme {scheme!r}; give a folder's path, or a URL such as s3://bucket/folder"
    return ""


def checkpoint_arguments(config: EvaluationConfig) -> list[str]:
    """Those of the ``model_args`` that are given and name a checkpoint that is loaded here; where it is an argument of
    another name, it is on another machine."""
    entry = registry.resolve(config.model)
    argument = None if entry is None else entry.arguments.get("pretrained")
    if argument is not None:
        names = ["pretrained", *argument.other_names]
    else:
        names = ["pretrained"] if entry is not None and entry.any_arguments else []
    return [name for name in names if name in config.model_args]


@contextlib.contextmanager
def local_checkpoint(config: EvaluationConfig, stop_if_cancelled: Callable[[], None]) -> Iterator[LocalCheckpoint]:
    """``config`` with copies of its checkpoint, which stay for the time of the context; itself where it names no URL.

    Raises:
        EvaluationError: ``MODEL_LOAD_FAILED``: the URL cannot be read, is no checkpoint, or changes all the time.
    """
    copies: dict[str, str] = {}
    arguments = dict(config.model_args)
    with contextlib.ExitStack() as used:
        for name in checkpoint_arguments(config):
            if is_url(url := arguments[name]):
                folder = used.enter_context(_copy(url, stop_if_cancelled))
                arguments[name], copies[str(folder)] = str(folder), url
        yield LocalCheckpoint(replace(config, model_args=arguments) if copies else config, copies)


@contextlib.contextmanager
def _copy(url: str, stop_if_cancelled: Callable[[], None]) -> Iterator[Path]:
    system, root = _open(url)
    cache = default_cache()
    with contextlib.ExitStack() as used:
        for _ in range(_ATTEMPTS):
            files = _list(system, root, url)
            key = _key(url, files)
            size = sum(file.size for file in files)

            def fill(folder: Path, files: list[_RemoteFile] = files) -> None:
                _log.info("copying %s (%d files)", redact(url), len(files))
                _download(system, files, folder, url, stop_if_cancelled)

            path = used.enter_context(cache.use(key, size, fill, stop_if_cancelled))
            if _key(url, _list(system, root, url)) == key:
                break
            _log.warning("%s was changed while it was copied", redact(url))
        else:
            raise _failed(url, "it is being written all the time; name a checkpoint that is complete")
        yield path


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # a package is missing, such as s3fs; or the scheme is unknown
        raise _failed(url, str(error)) from error
    return system, root.rstrip("/")


def _list(system: Any, root: str, url: str) -> list[_RemoteFile]:
    try:
        system.invalidate_cache()
        found = [info for info in system.ls(root, detail=True) if info["type"] == "file"]
        for info in system.ls(root, detail=True):
            if info["type"] == "directory" and PurePosixPath(info["name"]).name in _SUBFOLDERS:
                found += [item for item in system.ls(info["name"], detail=True) if item["type"] == "file"]
    except Exception as error:  # each file system has exceptions of its own
        raise _failed(url, f"it cannot be listed: {type(error).__name__}: {error}") from error
    depth = len(PurePosixPath(root).parts)
    files = []
    for info in found:
        name = "/".join(PurePosixPath(info["name"]).parts[depth:])
        version = next((f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key)), "")
        if name and not is_training_leftover(PurePosixPath(name).name):
            files.append(_RemoteFile(info["name"], name, int(info["size"] or 0), version))
    if not any(file.name == "config.json" for file in files):
        raise _failed(url, "it has no config.json; give the folder that save_pretrained wrote")
    return sorted(files, key=lambda file: file.name)


def _key(url: str, files: list[_RemoteFile]) -> str:
    said = [[file.name, file.size, file.version] for file in files]
    return hashlib.sha256(json.dumps([url, said]).encode()).hexdigest()[:32]


def _download(
    system: Any, files: list[_RemoteFile], folder: Path, url: str, stop_if_cancelled: Callable[[], None]
) -> None:
    from fsspec.callbacks import Callback

    class Watch(Callback):  # type: ignore[misc]
        """Told of every block."""

        def relative_update(self, inc: int = 1) -> None:
            stop_if_cancelled()

        absolute_update = relative_update

    def fetch(file: _RemoteFile) -> None:
        stop_if_cancelled()
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(file.path, str(target), callback=Watch())
        if (got := target.stat().st_size) != file.size:
            raise OSError(f"{file.name} has {got} bytes and not {file.size}")

    with ThreadPoolExecutor(_STREAMS, thread_name_prefix="checkpoint") as threads:
        try:
            for _ in threads.map(fetch, files):
                pass
        except EvaluationCancelled:
            raise
        except Exception as error:  # each file system has exceptions of its own
            raise _failed(url, f"it cannot be copied: {type(error).__name__}: {error}") from error


def _rename(value: Any, copies: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _rename(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rename(item, copies) for item in value]
    if isinstance(value, str):
        for folder, url in copies.items():
            value = value.replace(folder, url)
    return value


def _failed(url: str, why: str) -> EvaluationError:
    return EvaluationError("MODEL_LOAD_FAILED", f"checkpoint {redact(url)!r} cannot be loaded: {redact(why)}")

"""``lmms_eval.tasks._task_utils.media_resolver``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.data.folders import hugging_face_home

_SUFFIXES = {
    "video": ("mp4", "webm", "mkv", "mov", "avi", "flv", "wmv"),
    "audio": ("wav", "mp3", "m4a", "aac", "flac", "ogg", "opus", "webm"),
}
_FOLDERS = {"video": ("video", "videos"), "audio": ("audio", "audios")}


def resolve_media_reference(
    reference: Any,
    media_type: str = "video",
    cache_dir: str | None = None,
    env_vars: Sequence[str] = (),
    extra_subdirs: Sequence[str] = (),
) -> Any:
    """The file that ``reference`` means, looked for where tasks keep their media; itself when it is not found.

    Looked for as it is, then in the folders that ``env_vars`` and ``LMMS_EVAL_MEDIA_ROOT`` name, in the Hugging Face
    home and in ``cache_dir`` below it; with and without its folders, its suffix in either case, or any usual suffix
    where it has none. What is no text, and URLs, are returned as they are.
    """
    if not isinstance(reference, str) or not reference.strip() or reference.strip().startswith(("http://", "https://")):
        return reference
    name = Path(reference.strip()).expanduser()
    kind = "audio" if media_type == "audio" else "video"
    if name.exists():
        return str(name)
    for root in _roots(kind, cache_dir, env_vars):
        for folder in (root, *(root / subdir for subdir in extra_subdirs)):
            for candidate in (*_variants(folder / name, kind), *_variants(folder / name.name, kind)):
                if candidate.exists():
                    return str(candidate)
    return reference


def _roots(kind: str, cache_dir: str | None, env_vars: Sequence[str]) -> Iterator[Path]:
    for variable in (*env_vars, "LMMS_EVAL_MEDIA_ROOT"):
        value = os.environ.get(variable, "").strip()
        if value:
            yield Path(value).expanduser()
    home = hugging_face_home()
    yield home
    for folder in (home / cache_dir, home / "datasets" / cache_dir) if cache_dir else ():
        yield folder
        yield from (folder / name for name in (*_FOLDERS[kind], "clips"))


def _variants(path: Path, kind: str) -> Iterator[Path]:
    if path.suffix:
        yield from (path, path.with_suffix(path.suffix.lower()), path.with_suffix(path.suffix.upper()))
        return
    for suffix in _SUFFIXES[kind]:
        yield from (path.with_suffix(f".{suffix}"), path.with_suffix(f".{suffix.upper()}"))

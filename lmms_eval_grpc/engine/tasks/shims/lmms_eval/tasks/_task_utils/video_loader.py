"""``lmms_eval.tasks._task_utils.video_loader``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.data.folders import task_folder


def get_cache_dir(config: Mapping[str, Any], sub_dir: str = "videos") -> str:
    """The folder ``sub_dir`` where the videos of a task lie, whose YAML mapping is ``config``."""
    return str(task_folder(config["dataset_kwargs"]["cache_dir"]) / sub_dir)


def get_video(prefix: str, video_name: Any, suffix: str = "mp4") -> str:
    """The file of a video in ``prefix``, whichever case its suffix has. Raises FileNotFoundError."""
    name = str(video_name)
    tried = [Path(prefix) / (name if name.endswith(ending) else f"{name}.{ending}") for ending in _cases(suffix)]
    for path in tried:
        if path.exists():
            return str(path.absolute())
    raise FileNotFoundError(f"the video {name!r} is not there; looked for {', '.join(map(str, tried))}")


def _cases(suffix: str) -> tuple[str, ...]:
    return suffix, suffix.upper(), suffix.lower()

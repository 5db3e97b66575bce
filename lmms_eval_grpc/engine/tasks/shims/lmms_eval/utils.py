"""``lmms_eval.utils``: the few functions that task code uses."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

from lmms_eval_grpc.engine.tasks import shims

eval_logger = logging.getLogger("lmms_eval")

_UNSAFE = re.compile(r"[\"<>:/|\\?*\[\]]+")


def sanitize_model_name(model_name: str, full_path: bool = False) -> str:
    """A file name for a model: of a path or hub id the last two parts, with ``__`` for what no file name may hold."""
    kept = model_name if full_path else "/".join(model_name.split("/")[-2:])
    return _UNSAFE.sub("__", kept)


def sanitize_task_name(task_name: str) -> str:
    return re.sub(r"\W", "_", task_name)


def resolve_cache_dir(cache_dir: str, base_dir: str | None = None) -> str:
    """``cache_dir`` with variables and ``~`` expanded, below ``base_dir`` where it is relative."""
    expanded = os.path.expanduser(os.path.expandvars(cache_dir))  # noqa: PTH111 - text in, text out
    return expanded if base_dir is None else os.path.join(base_dir, expanded)  # noqa: PTH118


def __getattr__(name: str) -> Any:
    return shims.real_attribute("lmms_eval.utils", name)

"""``lmms_eval.tasks._task_utils.default_template_yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def load_default_template_yaml(task_file: str) -> Any:
    """The file ``_default_template_yaml`` beside ``task_file``, without the lines that name functions."""
    text = (Path(task_file).parent / "_default_template_yaml").read_text(encoding="utf-8")
    return yaml.safe_load("".join(line for line in text.splitlines(keepends=True) if "!function" not in line))

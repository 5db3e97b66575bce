"""``lmms_eval.tasks._task_utils.file_utils``."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def generate_submission_file(file_name: str, args: Any, subpath: str = "submissions") -> str:
    """The absolute path of ``file_name`` in the folder ``subpath`` of the evaluation's output, which is made.

    Without an output folder it is made in the working directory.
    """
    output = getattr(args, "output_path", None)
    folder = Path(subpath) if output is None else Path(output) / subpath
    folder.mkdir(parents=True, exist_ok=True)
    return str((folder / file_name).absolute())

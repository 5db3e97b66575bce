"""Where tasks come from when nobody says: the package's own, plug-ins', and those of an installed lmms-eval.

Runs no code of any of them: packages are located, not imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

OWN_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
"""The tasks that ship with this package."""

ENTRY_POINTS = "lmms_eval_grpc.tasks"
"""Entry-point group of plug-ins: each names an installed package, whose folder is scanned for task files."""

PLUGINS_VARIABLE = "LMMS_EVAL_PLUGINS"
"""Environment variable of lmms-eval: names of packages, with commas between, whose folder ``tasks`` is scanned."""

LMMS_EVAL_VARIABLE = "LMMS_EVAL_GRPC_LMMS_EVAL"
"""Environment variable: the folder of an lmms-eval package to use instead of the installed one, or ``none``."""


def plugin_folders() -> Iterator[tuple[str, Path | None]]:
    """Each plug-in as it is declared, and the folder of its tasks; None where its package is not installed.

    Those of entry points in the order of their names, then those of :data:`PLUGINS_VARIABLE` that have tasks.
    """
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        yield f"the entry point {point.name} = {point.value} of {ENTRY_POINTS}", package_folder(point.module)
    for name in filter(None, map(str.strip, os.environ.get(PLUGINS_VARIABLE, "").split(","))):
        package = package_folder(name)
        if package is None or (package / "tasks").is_dir():
            yield f"{name!r} in {PLUGINS_VARIABLE}", None if package is None else package / "tasks"


def lmms_eval_folder() -> Path | None:
    """The folder of the lmms-eval package: the environment's choice, else the installed one, else None."""
    chosen = os.environ.get(LMMS_EVAL_VARIABLE)
    if chosen == "none":
        return None
    if chosen:
        folder = Path(chosen).expanduser()
        return folder if (folder / "tasks").is_dir() else None
    return package_folder("lmms_eval")


def package_folder(name: str) -> Path | None:
    """The folder of an installed package, which is not imported; a package inside another imports the outer one."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None

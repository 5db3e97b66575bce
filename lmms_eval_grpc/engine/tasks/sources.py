"""Where tasks come from when nobody says: the package's own, and plug-ins'. Those of an installed lmms-eval come last.

Runs no code of any of them: packages are located, not imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmms_eval_grpc.engine.packages import PLUGINS_VARIABLE, entry_points, package_folder, plugin_names

OWN_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
"""The tasks that ship with this package."""

ENTRY_POINTS = "lmms_eval_grpc.tasks"
"""Entry-point group of plug-ins: each names an installed package, whose folder is scanned for task files."""


def plugin_folders() -> Iterator[tuple[str, Path | None]]:
    """Each plug-in as it is declared, and the folder of its tasks; None where its package is not installed.

    Those of entry points in the order of their names, then those of :data:`PLUGINS_VARIABLE` that have tasks.
    """
    for point in entry_points(ENTRY_POINTS):
        yield f"the entry point {point.name} = {point.value} of {ENTRY_POINTS}", package_folder(point.module)
    for name in plugin_names():
        package = package_folder(name)
        if package is None or (package / "tasks").is_dir():
            yield f"{name!r} in {PLUGINS_VARIABLE}", None if package is None else package / "tasks"

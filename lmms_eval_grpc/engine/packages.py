"""Where other packages lie on this machine, lmms-eval above all. Nothing is imported to find out."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

LMMS_EVAL = "lmms_eval"
"""The name that lmms-eval's package is imported by."""

LMMS_EVAL_PREFIX = "lmms_eval:"
"""Before a model's name: lmms-eval's backend of that name, also where this package has one of the same name."""

LMMS_EVAL_VARIABLE = "LMMS_EVAL_GRPC_LMMS_EVAL"
"""Environment variable: the folder of an lmms-eval package to use instead of the installed one, or ``none``."""

PLUGINS_VARIABLE = "LMMS_EVAL_PLUGINS"
"""Environment variable of lmms-eval: names of packages, with commas between, that bring it tasks or models."""


class StandIn(MetaPathFinder):
    """A finder of modules that are imported in place of a package's own: what it finds is not installed."""


def lmms_eval_folder() -> Path | None:
    """The folder of the lmms-eval package: the environment's choice, else the installed one, else None."""
    chosen = os.environ.get(LMMS_EVAL_VARIABLE)
    if chosen == "none":
        return None
    if chosen:
        folder = Path(chosen).expanduser()
        return folder if (folder / "tasks").is_dir() else None
    return package_folder(LMMS_EVAL)


def plugin_names() -> list[str]:
    """The packages in :data:`PLUGINS_VARIABLE`."""
    return [name for text in os.environ.get(PLUGINS_VARIABLE, "").split(",") if (name := text.strip())]


def entry_points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """What installed packages declare in this group, by name; read again when one was installed or removed."""
    return _entry_points(group, tuple(map(_last_change, sys.path)))


def _last_change(place: str) -> tuple[str, int]:
    try:
        return place, Path(place).stat().st_mtime_ns
    except (OSError, ValueError):
        return place, 0


@functools.lru_cache(maxsize=8)
def _entry_points(group: str, places: tuple[tuple[str, int], ...]) -> tuple[importlib.metadata.EntryPoint, ...]:
    # Reads a file of every installed package: with some two hundred of them, 20 ms of each job and each look at tasks.
    return tuple(sorted(importlib.metadata.entry_points(group=group), key=lambda point: point.name))


def package_folder(name: str) -> Path | None:
    """The folder of an installed package, which is not imported; a package inside another imports the outer one."""
    try:
        # Of a package that is imported, find_spec gives what is imported, which may be a stand-in.
        spec = importlib.util.find_spec(name) if "." in name else _installed_spec(name)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def _installed_spec(name: str) -> ModuleSpec | None:
    finders = [finder for finder in sys.meta_path if not isinstance(finder, StandIn)]
    return next((spec for finder in finders if (spec := finder.find_spec(name, None)) is not None), None)

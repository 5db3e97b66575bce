"""The modules that task code of lmms-eval imports, for when lmms-eval is not installed.

``install`` puts a finder in front of Python's own. It answers for ``lmms_eval`` and everything below it, and for
``loguru`` where that is missing. The framework's side (``lmms_eval.api``, ``filters``, ``utils``, …) is always ours,
written in the folder ``lmms_eval`` here; what tasks share among themselves (everything below ``lmms_eval.tasks``) comes
from the tree of task files where it is there, else from here; anything else from an installed lmms-eval, if any.

The files in ``lmms_eval`` are loaded under the names that task code imports; nothing of the engine uses them.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from lmms_eval_grpc.engine.data.folders import hugging_face_home
from lmms_eval_grpc.engine.packages import LMMS_EVAL, StandIn, lmms_eval_folder
from lmms_eval_grpc.engine.tasks.imports import SourceLoader

_HERE = Path(__file__).resolve().parent
_PACKAGE = LMMS_EVAL
_TASKS = "lmms_eval.tasks"


def install(task_file: Path | None = None) -> None:
    """Makes ``import lmms_eval…`` work in this process, for good; may be called again.

    ``task_file`` is a file of task code that is about to be run: where it lies in an lmms-eval tree, as
    ``…/lmms_eval/tasks/mme/utils.py``, imports of other tasks' code look in that tree. Does nothing in a process that
    has imported the real lmms-eval already.
    """
    # Many tasks read this variable without a default of their own; its meaning does not change.
    os.environ.setdefault("HF_HOME", str(hugging_face_home()))
    if _is_foreign(sys.modules.get(_PACKAGE)):
        return
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
        sys.meta_path.append(_fallback)
    if task_file is not None:
        _finder.add_tree(task_file)


def module_name(task_file: Path) -> str | None:
    """The name under which other tasks import ``task_file``; None for one that is in no lmms-eval tree."""
    tree = tree_of(task_file)
    if tree is None or _is_foreign(sys.modules.get(_PACKAGE)):
        return None
    parts = task_file.resolve().relative_to(tree).with_suffix("").parts
    return None if any("." in part for part in parts) else ".".join((_PACKAGE, *parts))


def task_module_spec(fullname: str) -> ModuleSpec | None:
    """Where the module ``lmms_eval.tasks.…`` lies in the trees of task files that are known; runs nothing."""
    return _finder.locate(fullname)


def real_attribute(module: str, name: str) -> Any:
    """What the real ``module`` of an lmms-eval on this machine has under ``name``; for what a module here lacks.

    Raises AttributeError when there is no such thing, or no lmms-eval.
    """
    known = _real_modules.get(module)
    if known is None and not name.startswith("__"):
        spec = _finder.real_spec(module)
        if spec is not None and spec.loader is not None:
            known = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(known)
            except Exception as error:
                raise AttributeError(f"{module}.{name}: the real {module} cannot be loaded: {error}") from error
            _real_modules[module] = known
    if known is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r} without an installed lmms-eval")
    return getattr(known, name)


_real_modules: dict[str, ModuleType] = {}


class _LmmsEvalFinder(StandIn):
    """Finds ``lmms_eval`` and what is below it."""

    def __init__(self) -> None:
        self._trees: list[Path] = []
        self._looked_for_installed = False

    def add_tree(self, task_file: Path) -> None:
        tree = tree_of(task_file)
        if tree is not None and tree not in self._trees:
            self._trees.append(tree)

    def locate(self, fullname: str) -> ModuleSpec | None:
        """As :meth:`real_spec`, also where the packages above are not imported."""
        *parents, last = fullname.split(".")[1:]
        return PathFinder.find_spec(last, [str(tree.joinpath(*parents)) for tree in self._all_trees()])

    def real_spec(self, fullname: str) -> ModuleSpec | None:
        return self._tree_spec(fullname)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _PACKAGE and not fullname.startswith(f"{_PACKAGE}."):
            return None
        if fullname == _PACKAGE:
            return _shim_spec(fullname)
        if _is_foreign(sys.modules.get(_PACKAGE)):
            return None
        finders = [_shim_spec, self._tree_spec]
        if fullname.startswith(f"{_TASKS}."):
            finders.reverse()
        return next((spec for find in finders if (spec := find(fullname)) is not None), None)

    def _tree_spec(self, fullname: str) -> ModuleSpec | None:
        parents = fullname.split(".")[1:-1]
        places = [str(tree.joinpath(*parents)) for tree in self._all_trees()]
        spec = PathFinder.find_spec(fullname, places)
        if spec is not None and spec.loader is None and fullname.startswith(f"{_TASKS}._"):
            return None  # a folder without code: ours has some
        if spec is not None and spec.origin is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = SourceLoader(fullname, spec.origin)
        return spec

    def _all_trees(self) -> list[Path]:
        if not self._looked_for_installed:
            self._looked_for_installed = True
            installed = lmms_eval_folder()
            if installed is not None and installed not in self._trees:
                self._trees.append(installed)
        return self._trees


class _MissingFinder(MetaPathFinder):
    """Finds small packages that nearly all tasks import, after everything else has failed to."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return _file_spec(fullname, _HERE / "loguru.py", None) if fullname == "loguru" else None


def tree_of(task_file: Path) -> Path | None:
    """The folder ``lmms_eval`` of ``…/lmms_eval/tasks/…``, in which ``task_file`` lies."""
    folders = task_file.resolve().parents
    return next((at.parent for at in folders if at.name == "tasks" and at.parent.name == _PACKAGE), None)


def _is_foreign(module: ModuleType | None) -> bool:
    """Whether ``lmms_eval`` is the real one, imported by somebody else."""
    return module is not None and Path(getattr(module, "__file__", None) or "").parent != _HERE / _PACKAGE


def _shim_spec(fullname: str) -> ModuleSpec | None:
    place = _HERE.joinpath(*fullname.split("."))
    if (place / "__init__.py").is_file():
        return _file_spec(fullname, place / "__init__.py", place)
    file = place.with_suffix(".py")
    return _file_spec(fullname, file, None) if file.is_file() else None


def _file_spec(fullname: str, file: Path, folder: Path | None) -> ModuleSpec | None:
    places = [str(folder)] if folder is not None else None
    return importlib.util.spec_from_file_location(fullname, file, submodule_search_locations=places)


_finder = _LmmsEvalFinder()
_fallback = _MissingFinder()

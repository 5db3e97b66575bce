"""Which Python files a task's code consists of: the file of its functions, and what that imports near itself.

Read from the source, so that imports inside functions count, and modules that another task of the process has imported
already. Modules of installed packages and of the standard library do not count; their versions are in the manifest.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

from lmms_eval_grpc.engine.tasks import shims
from lmms_eval_grpc.engine.tasks.imports import installed_places, is_installed, near_spec
from lmms_eval_grpc.engine.tasks.sources import OWN_FOLDER

_LMMS_EVAL = "lmms_eval"


class _Import(NamedTuple):
    """One import statement."""

    level: int
    """Leading dots."""
    module: str
    names: tuple[str, ...]
    """After ``from … import``: names that may be modules too."""


def source_files(file: Path) -> dict[Path, str]:
    """SHA-256 of ``file`` and of all that it imports, however deep, by real path; what cannot be read is left out."""
    digests: dict[Path, str] = {}
    waiting = [file.resolve()]
    while waiting:
        path = waiting.pop()
        if path in digests:
            continue
        try:
            source = path.read_bytes()
        except OSError:
            continue
        digests[path] = hashlib.sha256(source).hexdigest()
        if path.suffix == ".py":
            waiting += _imported_files(path, source)
    return digests


def _imported_files(importer: Path, source: bytes) -> Iterator[Path]:
    root = _root_of(importer)
    for statement in _import_statements(source):
        for found in _files_of(statement, importer, root):
            real = found.resolve()
            if real != importer and (real.is_relative_to(root) or not is_installed(real)):
                yield real


@functools.lru_cache(maxsize=4096)
def _import_statements(source: bytes) -> tuple[_Import, ...]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # running it has said so, or will
        return ()
    found: dict[_Import, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(dict.fromkeys(_Import(0, alias.name, ()) for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            found[_Import(node.level, node.module or "", tuple(alias.name for alias in node.names))] = None
    return tuple(found)


def _files_of(statement: _Import, importer: Path, root: Path) -> Iterator[Path]:
    """The files that the statement may run: of the module, of the packages that it is in, of modules that it names."""
    if statement.level:
        for folder in importer.parents[statement.level - 1 : statement.level]:
            yield from _below([str(folder)], statement.module, statement.names)
        return
    top, _, rest = statement.module.partition(".")
    if top in sys.stdlib_module_names:
        return
    if top == _LMMS_EVAL:
        if rest == "tasks" or rest.startswith("tasks."):
            yield from _lmms_eval_files(statement)
        return
    for spec in _top_level(top, importer, root):
        yield from _origin(spec)
        places = [place for place in spec.submodule_search_locations or () if _may_count(Path(place), root)]
        if places:
            yield from _below(places, rest, statement.names)


def _top_level(name: str, importer: Path, root: Path) -> Iterator[ModuleSpec]:
    """What ``name`` may mean to ``importer``: a module beside it, whether or not its folder is on ``sys.path`` already,
    and the one that is found there."""
    beside = PathFinder.find_spec(name, [str(importer.parent)])
    if beside is not None and beside.loader is not None:
        yield beside
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    found = near_spec(name, importer.parent)
    if found is not None:
        yield found
    elif loaded is not None and any(map(root.is_relative_to, loaded.submodule_search_locations or ())):
        yield loaded  # the package that the task is in, installed in place with a finder of its own


def _lmms_eval_files(statement: _Import) -> Iterator[Path]:
    parts = statement.module.split(".")
    names = [".".join(parts[:length]) for length in range(3, len(parts) + 1)]
    names += [f"{statement.module}.{name}" for name in statement.names]
    for name in names:
        spec = shims.task_module_spec(name)
        if spec is not None:
            yield from _origin(spec)


def _below(places: Sequence[str], dotted: str, names: Sequence[str]) -> Iterator[Path]:
    """The files on the way down from ``places`` to the module ``dotted``, and of the ``names`` in it."""
    for part in filter(None, dotted.split(".")):
        spec = PathFinder.find_spec(part, list(places))
        if spec is None:
            return
        yield from _origin(spec)
        places = list(spec.submodule_search_locations or ())
    for name in names if places else ():
        spec = PathFinder.find_spec(name, list(places))
        if spec is not None:
            yield from _origin(spec)


def _origin(spec: ModuleSpec) -> Iterator[Path]:
    if spec.has_location and spec.origin is not None:
        yield Path(spec.origin)


def _may_count(package: Path, root: Path) -> bool:
    """Whether modules in the folder ``package`` may be part of a task whose modules lie in ``root``."""
    return not is_installed(package) or root.is_relative_to(package.resolve()) or package.resolve().is_relative_to(root)


def _root_of(file: Path) -> Path:
    """The folder whose modules belong to the task although it may lie in an installed place."""
    if file.is_relative_to(OWN_FOLDER):
        return OWN_FOLDER
    tree = shims.tree_of(file)
    if tree is not None:
        return tree / "tasks"
    for place in installed_places():
        if file.is_relative_to(place) and file.parent != place:
            return place / file.relative_to(place).parts[0]
    return file.parent

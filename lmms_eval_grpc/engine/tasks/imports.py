"""How the code of one task imports modules that lie near it, kept apart from those of other tasks.

Many tasks put their folder on ``sys.path`` and import ``metrics`` or ``prompts`` from it. Python keeps one module per
name, so the second task of a process would get the first one's. While a task's file runs here, such a name means a
module near that file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

from lmms_eval_grpc.engine.tasks.sources import OWN_FOLDER


def run_source(module: ModuleType, file: Path, source: bytes) -> None:
    """Runs ``source``, the content of ``file``, as ``module``."""
    _ran[file.resolve()] = hashlib.sha256(source).hexdigest()
    exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)


def digest_when_run(file: Path) -> str | None:
    """SHA-256 of the source that ``file`` had when task code was last run from it; None: it was not."""
    return _ran.get(file)


def forget(files: Iterable[Path]) -> None:
    """Makes the next import of each of ``files`` (real paths) run it anew."""
    gone = set(files)
    for file in gone:
        _ran.pop(file, None)
    for key in [key for key in _shared if key[1] in gone]:
        del _shared[key]
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path is not None and (Path(path) in gone or Path(path).resolve() in gone):
            del sys.modules[name]


_ran: dict[Path, str] = {}
_shared: dict[tuple[str, Path], ModuleType] = {}
"""Modules that tasks imported from places where nothing is installed, by name and file."""


class SourceLoader(SourceFileLoader):
    """Runs the source that is there: a ``.pyc`` goes by seconds and size, and may be of an older one."""

    def exec_module(self, module: ModuleType) -> None:
        run_source(module, Path(self.path), self.get_data(self.path))


class _SharedLoader(SourceLoader):
    """Gives the module of an earlier import of the same file under the same name."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return _shared.get((self.name, Path(self.path).resolve()))

    def exec_module(self, module: ModuleType) -> None:
        key = (self.name, Path(self.path).resolve())
        if key not in _shared:
            super().exec_module(module)
            _shared[key] = module


@contextlib.contextmanager
def running(file: Path) -> Iterator[None]:
    """While a task's ``file`` runs: names that other tasks' imports took are free, and near modules come first."""
    names = {key[0].partition(".")[0] for key in _shared}
    # In a worker to look at each of the thousands of modules copies the pages that they lie on.
    loaded = list(sys.modules) if names else []
    hidden = {name: sys.modules[name] for name in loaded if name.partition(".")[0] in names}
    for name in hidden:
        del sys.modules[name]
    finder = _NearFinder(file.parent)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in hidden.items():
            top = hidden.get(name.partition(".")[0])
            if top is not None and sys.modules.setdefault(top.__name__, top) is top:  # else the name is now this task's
                sys.modules.setdefault(name, module)


def near_spec(name: str, folder: Path) -> ModuleSpec | None:
    """Where a top-level module ``name`` is found by code in ``folder``; None: nowhere on ``sys.path``.

    What Python's own order finds in an installed place stands. Otherwise folders above and below ``folder`` come before
    those that other tasks put on ``sys.path``.
    """
    spec = PathFinder.find_spec(name)
    if spec is not None and spec.origin is not None and is_installed(Path(spec.origin)):
        return spec
    return PathFinder.find_spec(name, _near_entries(folder)) or spec


def is_installed(file: Path) -> bool:
    """Whether ``file`` is of the standard library, of an installed package, or of this package itself.

    The benchmarks that ship with this package count as tasks, not as installed.
    """
    real = file.resolve()
    if real.is_relative_to(OWN_FOLDER):
        return False
    return any(real.is_relative_to(place) for place in installed_places()) or real.is_relative_to(OWN_FOLDER.parent)


@functools.cache
def installed_places() -> tuple[Path, ...]:
    """The folders of the standard library and of installed packages, those that are installed in place included."""
    paths = sysconfig.get_paths()
    sites = [
        Path(name) for name in (paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages())
    ]
    libraries = [Path(paths["stdlib"]), Path(paths["platstdlib"])]
    in_place = [folder for place in dict.fromkeys(sites) for folder in _folders_of_path_files(place)]
    return tuple(dict.fromkeys(place.resolve() for place in (*sites, *libraries, *in_place)))


def _folders_of_path_files(place: Path) -> Iterator[Path]:
    """What the ``.pth`` files in ``place`` add to ``sys.path``."""
    for file in sorted(place.glob("*.pth")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            name = line.strip()
            if name and not name.startswith(("#", "import ", "import\t")) and (place / name).is_dir():
                yield place / name


class _NearFinder(MetaPathFinder):
    """Finds what lies outside installed places, as :func:`near_spec` does, and the modules inside of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        if top in sys.stdlib_module_names or top in _OTHERS:
            return None
        spec = near_spec(fullname, self._folder) if path is None else PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None or is_installed(Path(spec.origin)):
            return None
        if type(spec.loader) is SourceFileLoader:
            spec.loader = _SharedLoader(fullname, spec.origin)
        return spec


_OTHERS = frozenset({"lmms_eval", "lmms_eval_grpc"})
"""Found by :mod:`.shims`, and by Python as always: their full names tell them apart."""


def _near_entries(folder: Path) -> list[str]:
    """The entries of ``sys.path`` at, above or below ``folder``, in their order."""
    places = [(entry or ".", Path(entry or ".").resolve()) for entry in sys.path]
    return [entry for entry, place in places if folder.is_relative_to(place) or place.is_relative_to(folder)]

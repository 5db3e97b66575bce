"""From ``!function module.name`` to the function: each Python file is run once and shared by all its references."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lmms_eval_grpc.engine.tasks import imports, shims
from lmms_eval_grpc.engine.tasks.dependencies import source_files
from lmms_eval_grpc.engine.tasks.yaml_loader import FunctionReference, TaskFileError

_MODULE_PREFIX = "lmms_eval_grpc_task_"


@dataclass(slots=True)
class Sources:
    """The Python files that a task's functions came from and the modules that those import from the task's folder or
    tree, by real path, with the SHA-256 of the source."""

    digests: dict[Path, str] = field(default_factory=dict)


def resolve_functions(value: Any, sources: Sources) -> Any:
    """``value`` with every :class:`FunctionReference` in it, however deep, replaced by the function it names.

    Raises TaskFileError when a function cannot be loaded; the message names both places that were tried.
    """
    if isinstance(value, FunctionReference):
        return _load_function(value, sources)
    if isinstance(value, Mapping):
        return {key: resolve_functions(item, sources) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve_functions(item, sources) for item in value]
    return value


def describe_callable(function: Callable[..., Any]) -> str:
    """A name for ``function`` that is equal in every process and on every machine: ``!function utils.doc_to_text``."""
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    if module.startswith(_MODULE_PREFIX):
        module = module.removeprefix(_MODULE_PREFIX).partition("_")[2]
    elif module.startswith("lmms_eval.tasks."):  # so called only where the file lies in an lmms-eval tree
        module = module.rpartition(".")[2]
    return f"!function {module}.{name}"


def _load_function(reference: FunctionReference, sources: Sources) -> Any:
    module_name, _, attribute = reference.reference.rpartition(".")
    if not module_name or not attribute:
        raise TaskFileError(
            f"{reference} in {reference.directory}: must be module.function, e.g. !function utils.doc_to_text"
        )
    beside = reference.directory / f"{module_name}.py"
    if os.path.isfile(beside):  # noqa: PTH113 - unlike Path's it answers for names that no file system takes
        module = _load_file(beside, sources)
    else:
        module = _import_module(reference, module_name, beside, sources)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise TaskFileError(f"{reference}: {module.__file__} has no {attribute!r}") from None


def _load_file(path: Path, sources: Sources) -> ModuleType:
    real = path.resolve()
    try:
        source = real.read_bytes()
    except OSError as error:
        raise TaskFileError(f"{real}: cannot be read: {error}") from error
    shims.install(real)
    name = shims.module_name(real)
    loaded = sys.modules.get(name) if name is not None else None
    if name is None or (loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() != real):
        # The name is made from the path, so that what the module defines can be pickled within this process, and two
        # tasks' utils.py do not collide.
        name = f"{_MODULE_PREFIX}{hashlib.sha256(str(real).encode()).hexdigest()[:12]}_{real.stem}"
    _forget_changed(real)
    module = sys.modules.get(name) or _run_file(name, real, source)
    sources.digests.update(_remember(real))
    return module


def _run_file(name: str, real: Path, source: bytes) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, real)
    if spec is None:
        raise TaskFileError(f"{real}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with imports.running(real):
            imports.run_source(module, real, source)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        hint = "; install what it needs in the environment of the engine" if isinstance(error, ImportError) else ""
        where = _last_line_of(error, real)
        raise TaskFileError(f"{real}: {where}{type(error).__name__}: {error}{hint}") from error
    return module


def _import_module(reference: FunctionReference, name: str, beside: Path, sources: Sources) -> ModuleType:
    shims.install(reference.directory / "any.py")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise TaskFileError(
            f"{reference}: there is no file {beside}, and importing module {name!r} failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    file = getattr(module, "__file__", None)
    if file is not None and Path(file).is_file():
        sources.digests.update(source_files(Path(file)))
    return module


_known: dict[Path, dict[Path, str]] = {}
"""The source digests of each file that was run, and of what it imports, as they were then."""


def _forget_changed(real: Path) -> None:
    """Makes ``real`` and what it imports run anew if any of that has another source now than when it was run."""
    known, now = _known.get(real, {}), source_files(real)
    if all(_digest_or_none(file) == digest for file, digest in known.items()) and all(
        imports.digest_when_run(file) in (None, digest) for file, digest in now.items()
    ):
        return
    files = known.keys() | now.keys()
    imports.forget(files)
    for file in files:
        _known.pop(file, None)


def _remember(real: Path) -> dict[Path, str]:
    if real not in _known:
        _known[real] = source_files(real)
    return _known[real]


def _digest_or_none(file: Path) -> str | None:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def _last_line_of(error: Exception, path: Path) -> str:
    """Where in ``path`` the error arose, as ``line 12: ``; empty when it arose elsewhere."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"line {lines[-1]}: " if lines else ""

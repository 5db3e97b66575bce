"""Every model backend by the names users type: what ships with the package, then plug-ins', then lmms-eval's own.

Light: imports no model library. Only :func:`load` and :func:`prepare` import a backend itself.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import logging
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models import catalog
from lmms_eval_grpc.engine.models.entry import Loader, LoadSettings, ModelEntry, Preparer
from lmms_eval_grpc.engine.models.lmms_eval import names as lmms_eval_names
from lmms_eval_grpc.engine.models.protocol import Backend, CannotReuse, Reusable
from lmms_eval_grpc.engine.packages import entry_points

logger = logging.getLogger(__name__)

ENTRY_POINTS = "lmms_eval_grpc.models"
"""Entry-point group of plug-ins: each names a :class:`ModelEntry`, several, or a function that returns them.

The module is imported wherever models are listed, the server included, so it must import no model library itself.
"""


def entries() -> tuple[ModelEntry, ...]:
    """Every backend, in the order in which to show them."""
    return _entries()


def resolve(name: str) -> ModelEntry | None:
    """The backend of that name or alias; None: there is none."""
    return _by_name().get(name)


def closest(name: str, n: int = 3) -> tuple[str, ...]:
    """Up to ``n`` known names and aliases that look like ``name``, nearest first."""
    # qwen is like qwen3_vl (0.67), and nope not like openai (0.6).
    return tuple(difflib.get_close_matches(name, _by_name(), n=n, cutoff=0.65))


def load(name: str, model_args: Mapping[str, Any], settings: LoadSettings, loader: Loader | None = None) -> Backend:
    """Loads the model: heavy imports, weights to the device; by ``loader`` where :func:`prepare` has given one.

    Raises :class:`EvaluationError` with reason ``UNKNOWN_MODEL``, ``INVALID_MODEL_ARGS``, ``MISSING_PACKAGES``, or what
    the backend's loader raises, such as ``MODEL_LOAD_FAILED`` or ``OUT_OF_MEMORY``.
    """
    entry, values = _arguments(name, model_args, settings)
    if loader is None:
        loader = _find(entry.loader)
    return loader(entry, values, settings)


def create(
    name: str,
    model_args: Mapping[str, Any],
    *,
    device: str,
    batch_size: int | None = None,
    max_batch_size: int | None = None,
    trust_remote_code: bool = False,
    force_simple: bool = False,
) -> Backend:
    """:func:`load` with the settings as keywords."""
    settings = LoadSettings(device, batch_size, max_batch_size, trust_remote_code, force_simple)
    return load(name, model_args, settings)


def prepare(name: str, model_args: Mapping[str, Any], settings: LoadSettings) -> Loader | None:
    """Does what of :func:`load` is possible before the device is free, and returns its ``loader``; None: nothing is.

    Raises whatever :func:`load` may raise, and more.
    """
    entry, values = _arguments(name, model_args, settings)
    if not entry.preparer:
        return None
    preparer: Preparer = _find(entry.preparer)
    return preparer(entry, values, settings)


def reuse(backend: Backend, name: str, model_args: Mapping[str, Any], settings: LoadSettings) -> None:
    """Makes of a loaded model what :func:`load` would have made.

    Raises :class:`CannotReuse`, or :class:`EvaluationError` as :func:`load` does, after which it is of no use.
    """
    if not isinstance(backend, Reusable):
        raise CannotReuse("its backend serves one evaluation only")
    entry, values = _arguments(name, model_args, settings)
    backend.become(entry, values, settings)


def _arguments(
    name: str, model_args: Mapping[str, Any], settings: LoadSettings
) -> tuple[ModelEntry, Mapping[str, Any]]:
    """The backend of that name, which can be used here, and the values of all its arguments."""
    entry = resolve(name)
    if entry is None:
        near = closest(name)
        hint = f"; close to it: {', '.join(near)}" if near else ""
        raise EvaluationError("UNKNOWN_MODEL", f"there is no model {name!r}{hint}")
    problems = entry.check_args(model_args)
    if problems:
        raise EvaluationError("INVALID_MODEL_ARGS", "; ".join(problem.description for problem in problems))
    missing = entry.missing_packages()
    if missing:
        raise EvaluationError(
            "MISSING_PACKAGES",
            f"model {name!r} needs packages that are not installed, or newer ones: pip install {shlex.join(missing)}",
        )
    values = entry.fill_in(model_args)
    if settings.trust_remote_code and "trust_remote_code" in entry.arguments:
        values["trust_remote_code"] = True
    return entry, values


def _find(name: str) -> Any:
    """The function of that ``module:function``."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


@functools.cache
def _entries() -> tuple[ModelEntry, ...]:
    others = (*catalog.ENTRIES, *_plugin_entries())
    taken = {name for entry in others for name in (entry.name, *entry.aliases)}
    return (*others, *lmms_eval_names.entries(taken))


@functools.cache
def _by_name() -> Mapping[str, ModelEntry]:
    """The first entry that claims a name has it: what ships with the package cannot be replaced unnoticed."""
    named: dict[str, ModelEntry] = {}
    for entry in _entries():
        for name in (entry.name, *entry.aliases):
            if named.setdefault(name, entry) is not entry:
                logger.warning("model name %r of %s is taken by %s already", name, entry.loader, named[name].loader)
    return named


def _plugin_entries() -> Iterator[ModelEntry]:
    """A plug-in that cannot be imported costs a warning and its own models, nobody else's."""
    for point in entry_points(ENTRY_POINTS):
        try:
            yield from _as_entries(point.load(), point.value)
        except Exception as error:
            logger.warning("model plug-in %s = %s is left out: %s: %s", point.name, point.value,
                           type(error).__name__, error)  # fmt: skip


def _as_entries(named: Any, where: str) -> Iterable[ModelEntry]:
    found = named() if callable(named) else named
    listed = [found] if isinstance(found, ModelEntry) else list(found)
    for item in listed:
        if not isinstance(item, ModelEntry):
            raise TypeError(f"{where} must give ModelEntry objects, but gave {item!r:.200}")
    return listed

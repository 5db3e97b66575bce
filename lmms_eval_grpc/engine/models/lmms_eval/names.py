"""Which model backends the installed lmms-eval has, read from its files.

Light: runs no code of lmms-eval or of its plug-ins, and imports none of it.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.models.entry import ModelEntry
from lmms_eval_grpc.engine.packages import (
    LMMS_EVAL,
    LMMS_EVAL_PREFIX,
    entry_points,
    lmms_eval_folder,
    package_folder,
    plugin_names,
)

logger = logging.getLogger(__name__)

ENTRY_POINTS = "lmms_eval.models"
"""Entry-point group of lmms-eval's plug-ins. What they call their models only their code says, so the name of the entry
point is taken for it."""

_SIMPLE, _CHAT, _ALIASES = "AVAILABLE_SIMPLE_MODELS", "AVAILABLE_CHAT_TEMPLATE_MODELS", "MODEL_ALIASES"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One backend of lmms-eval."""

    name: str
    chat: bool
    """Whether it has a class that takes messages."""
    simple: bool
    """Whether it has a class that takes a prompt and visuals."""
    files: tuple[Path, ...] = ()
    """Of those classes."""
    aliases: tuple[str, ...] = ()


def entries(taken: Iterable[str]) -> Iterator[ModelEntry]:
    """An entry for every backend of the lmms-eval on this machine; none where there is no lmms-eval.

    Each has its name behind :data:`LMMS_EVAL_PREFIX`, and also without, as have its aliases, where that is not
    ``taken``.
    """
    folder = lmms_eval_folder()
    if folder is None:
        return
    others = set(taken)
    source = f"lmms-eval {version_of(folder)}".strip()
    for model in known_models(folder):
        names = (model.name, *model.aliases)
        free = [name for name in names if name not in others]
        yield ModelEntry(
            LMMS_EVAL_PREFIX + model.name,
            f"{source}'s own backend {model.name}.",
            "lmms_eval_grpc.engine.models.lmms_eval.backend:load",
            arguments={},
            any_arguments=True,
            aliases=(*free, *(LMMS_EVAL_PREFIX + alias for alias in model.aliases)),
            kind="chat" if model.chat else "simple",
            also_simple=model.simple,
            modalities=("text", "image", "video", "audio"),
            requires=("torch", "transformers", "accelerate"),
            visual_cot=any(map(_draws, model.files)),
            own_process=True,
            source=source,
        )


def known_models(folder: Path) -> list[KnownModel]:
    """The backends of the lmms-eval in ``folder``, sorted by name, then those of its plug-ins."""
    tables = _tables(folder / "models" / "__init__.py")
    simple, chat, aliases = (tables.get(name, {}) for name in (_SIMPLE, _CHAT, _ALIASES))
    found = {}
    for name in sorted({*simple, *chat}):
        kinds = [kind for kind, names in (("chat", chat), ("simple", simple)) if name in names]
        files = tuple(folder / "models" / kind / f"{name}.py" for kind in kinds)
        found[name] = KnownModel(name, "chat" in kinds, "simple" in kinds, files, tuple(aliases.get(name, ())))
    for package in plugin_names():
        place = package_folder(package)
        if place is not None and (file := place / "models" / "__init__.py").is_file():
            for name in _tables(file).get("AVAILABLE_MODELS", {}):
                found[name] = KnownModel(name, False, True, (file.with_name(f"{name}.py"),))
    for point in entry_points(ENTRY_POINTS):
        found.setdefault(point.name, KnownModel(point.name, True, True))
    return list(found.values())


def version_of(folder: Path) -> str:
    """The version of the lmms-eval in ``folder``; empty where nobody says."""
    places = [str(folder.parent)]
    found = next(iter(importlib.metadata.distributions(name="lmms-eval", path=places)), None)
    if found is None and folder == package_folder(LMMS_EVAL):  # installed in place
        found = next(iter(importlib.metadata.distributions(name="lmms-eval")), None)
    return "" if found is None else found.version


def _tables(file: Path) -> Mapping[str, Mapping[str, Any]]:
    """The mappings that ``file`` assigns to names, as far as they are written out there."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError, ValueError) as error:
        logger.warning("the models of lmms-eval are not listed: %s: %s", file, error)
        return {}
    found = {}
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        if isinstance(targets[0], ast.Name) and isinstance(value, ast.Dict):
            try:
                found[targets[0].id] = ast.literal_eval(value)
            except ValueError as error:
                logger.warning("%s: %s is left out: %s", file, targets[0].id, error)
    return found


@functools.cache
def _draws(file: Path) -> bool:
    """Whether the class in ``file`` answers tasks of output type ``generate_visual_cot``."""
    try:
        return b"def generate_visual_cot" in file.read_bytes()
    except OSError:
        return False

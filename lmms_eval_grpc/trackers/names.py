"""Names of trackers: ``tensorboard:FOLDER``, ``wandb:PROJECT`` or ``wandb:ENTITY/PROJECT``, ``mlflow:EXPERIMENT``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES: Mapping[str, str] = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""The kinds of tracker, and the package that each needs."""
_FORMS = "tensorboard:FOLDER, wandb:PROJECT, wandb:ENTITY/PROJECT or mlflow:EXPERIMENT"


class TrackerNameError(ValueError):
    """Text that names no tracker; says what would."""


@dataclass(frozen=True, slots=True)
class TrackerName:
    """A kind of tracker, and where in it."""

    kind: str
    target: str
    """A folder, an absolute path; a project; or an experiment."""

    @property
    def missing_package(self) -> str | None:
        """The package that it needs, where that is not installed."""
        package = PACKAGES[self.kind]
        return package if importlib.util.find_spec(package) is None else None


def parse_tracker(text: str) -> TrackerName:
    """The tracker that ``text`` names. Raises TrackerNameError."""
    kind, _, target = text.partition(":")
    if kind not in PACKAGES:
        raise TrackerNameError(f"{text!r} is none of {_FORMS}")
    if not target.strip() or "\0" in target:
        raise TrackerNameError(f"{text!r} does not say where in {kind}; use {_FORMS}")
    if kind == "tensorboard" and not _is_absolute(target):
        raise TrackerNameError(f"{text!r}: the folder must be an absolute path")
    if kind == "wandb" and (target.count("/") > 1 or not all(target.split("/"))):
        raise TrackerNameError(f"{text!r}: use wandb:PROJECT or wandb:ENTITY/PROJECT")
    return TrackerName(kind, target)


def _is_absolute(folder: str) -> bool:
    try:
        return Path(folder).expanduser().is_absolute()
    except RuntimeError:  # ``~user`` for a user whom this machine does not know
        return False

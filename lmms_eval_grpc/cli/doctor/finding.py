"""What a check says."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as well, or not for everything."""
    FAILURE = "failure"
    """A server cannot run so."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the outcome."""

    check: str
    """Its name: a word."""
    level: Level
    message: str
    """What was found."""
    remedy: str = ""
    """What to do about it. Empty where there is nothing to be done."""


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def warning(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, Level.WARNING, message, remedy)


def failure(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, Level.FAILURE, message, remedy)

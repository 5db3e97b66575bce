"""From the words of a command line to values: what argparse calls for the flags.

Only what is the command line's own: what an evaluation's arguments mean, ``k=v,…`` strings and seeds among them, is
decided once, in ``client.requests``, and gets there as text.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from typing import Any

STATES = ("queued", "running", "cancelling", "completed", "failed", "cancelled")

_DURATION_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_names(text: str) -> list[str]:
    """``a,b`` as ``["a", "b"]``."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; give one or more names with commas between them")
    return names


def parse_states(text: str) -> list[str]:
    """Names of job states."""
    names = [name.lower() for name in parse_names(text)]
    for name in names:
        if name not in STATES:
            raise argparse.ArgumentTypeError(f"{name!r} is not a state; use {', '.join(STATES)}")
    return names


def parse_mapping(text: str) -> str | dict[str, Any]:
    """A JSON object as a dictionary; anything else stays text, for the client's ``k=v,…`` grammar."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        # Strict JSON: NaN and the infinities could not travel.
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} starts like a JSON object but is none ({error}); write k=v,k=v or a JSON object"
        ) from None
    # Nothing but an object starts with a brace.
    return dict(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def parse_number(text: str) -> int | float:
    """``8`` as int, ``0.1`` as float."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise argparse.ArgumentTypeError(f"{text!r} is not a number")


def parse_label(text: str) -> tuple[str, str]:
    """``key=value`` as a pair."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not a label; write key=value")
    return key.strip(), value


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``15m``, ``2h`` or ``1d``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip().lower())
    seconds = float(match[1]) * _DURATION_UNITS[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write seconds, or a number with s, m, h or d")
    return seconds


def parse_natural(text: str) -> int:
    """A whole number from 0."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def parse_bytes(text: str) -> int:
    """Bytes of ``500000``, ``500MB``, ``5GB`` or ``4GiB``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(i?)b?", text.strip().lower())
    size = float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " ") if match else 0.0
    count = int(size) if size < math.inf else 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write bytes, or a number with MB, GB or GiB")
    return count


def parse_count(text: str) -> int:
    """A whole number from 1."""
    count = int(text) if text.strip().isdecimal() else 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return count

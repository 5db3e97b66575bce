"""Generation arguments in lmms-eval's names, as far as every backend reads them alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError

IGNORED_KEYS = frozenset({"image_aspect_ratio", "visual_cot", "max_agentic_steps"})
"""Keys that tasks of lmms-eval carry for other backends or for the run loop; they mean nothing to a generation."""

RENAMED_KEYS = {"max_gen_toks": "max_new_tokens", "max_tokens": "max_new_tokens"}

COMMON_KEYS = frozenset({"until", "max_new_tokens", "temperature", "do_sample"}) | IGNORED_KEYS | RENAMED_KEYS.keys()
"""Keys that every backend takes."""


def describe_unknown(key: str, model: str, known: Iterable[str]) -> str:
    """The sentence that refuses ``key``, with the nearest of the ``known`` keys."""
    near = difflib.get_close_matches(key, sorted(known), n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it takes {', '.join(sorted(known))}"
    return f"model {model!r} has no generation argument {key!r}; {hint}"


def read_stops(until: Any) -> tuple[str, ...]:
    """The stop strings that ``until`` names, empty ones left out.

    Raises :class:`EvaluationError` ``INVALID_GENERATION_ARGS`` where it is neither a string nor a list of strings.
    """
    if until is None:
        return ()
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, (list, tuple)) or not all(isinstance(stop, str) for stop in stops):
        raise EvaluationError("INVALID_GENERATION_ARGS", f"until must be a string or a list of strings, not {until!r}")
    return tuple(stop for stop in stops if stop)


def truncate(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first appearance of any stop string, which is left out."""
    ends = [position for stop in stops if stop and (position := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text

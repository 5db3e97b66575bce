"""Reasoning tags: what a model thinks aloud is cut from its response before it is scored."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

TagPairs = tuple[tuple[str, str], ...]

DEFAULT_TAGS: TagPairs = (("<think>", "</think>"), ("<analysis>", "</analysis>"))
"""Stripped where neither the evaluation nor the task says otherwise: what lmms-eval's command line does."""


def effective_tags(task_value: Any, evaluation_value: str | None) -> TagPairs:
    """The pairs to strip: the task's if it sets any, else the evaluation's, else the defaults; empty for ``"none"``.

    Raises ValueError for a value that is no list of [start, end] pairs.
    """
    value = task_value if task_value is not None else evaluation_value
    if value is None:
        return DEFAULT_TAGS
    return parse_tags(value)


def parse_tags(value: Any) -> TagPairs:
    """``value`` (JSON text or a list of pairs) as pairs; empty for ``"none"`` and False.

    Raises ValueError, naming the value and the expected form.
    """
    if value is False or value == "none":
        return ()
    pairs = value
    if isinstance(value, str):
        try:
            pairs = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"reasoning_tags is not valid JSON ({error}); {_form(value)}") from error
    if pairs is None:
        return ()
    if not isinstance(pairs, list | tuple) or not all(_is_pair(pair) for pair in pairs):
        raise ValueError(f"reasoning_tags must be a list of pairs; {_form(value)}")
    return tuple((pair[0], pair[1]) for pair in pairs)


def strip_reasoning(text: str, pairs: Iterable[tuple[str, str]]) -> str:
    """``text`` without the spans between the pairs' tags, and without white space at its ends.

    An opening tag that is never closed is left, because the answer may be behind it. Where only a closing tag is
    found the chat template opened the tag in the prompt, and everything up to the last closing tag is cut.
    """
    for start, end in pairs:
        text = _strip_pair(text, start, end)
    return text.strip()


def _strip_pair(text: str, start: str, end: str) -> str:
    while (opened := text.find(start)) >= 0:
        closed = text.find(end, opened)
        if closed < 0:
            return text
        text = text[:opened] + text[closed + len(end) :]
    return text.rpartition(end)[2]


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(tag, str) and tag for tag in pair)


def _form(value: Any) -> str:
    return f'write [["<think>", "</think>"]] or "none", not {value!r}'

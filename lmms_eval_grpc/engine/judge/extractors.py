"""Extractors: from a model's words to the answer in them, one text at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmms_eval_grpc.engine.judge.choice_letters import find_choice_letter
from lmms_eval_grpc.engine.scoring.reasoning import strip_reasoning

Extractor = Callable[..., str]
"""Called with the text, and with the keyword arguments of the whole verification."""

_THINKING = (("<think>", "</think>"), ("<thinking>", "</thinking>"))
_SPECIAL_TOKENS = ("</s>", "<|endoftext|>", "<|end_of_sentence|>", "<|im_end|>", "[/INST]")
_BOXED = re.compile(r"\\boxed\{([^}]+)\}")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


class StripReasoningExtractor:
    """Cuts what a model thinks aloud, between the pairs of tags."""

    def __init__(self, tag_pairs: Sequence[Sequence[str]] | None = None) -> None:
        self.tag_pairs = tuple((pair[0], pair[1]) for pair in tag_pairs or _THINKING)

    def extract(self, text: Any, **kwargs: Any) -> str:
        return strip_reasoning("" if text is None else str(text), self.tag_pairs)

    __call__ = extract


class RegexExtractor:
    """The first match's group, without white space at its ends; ``fallback`` where nothing matches."""

    def __init__(self, pattern: str, group: int = 1, fallback: str = "", flags: int = 0) -> None:
        self.regex = re.compile(pattern, flags)
        self.group = group
        self.fallback = fallback

    def extract(self, text: str, **kwargs: Any) -> str:
        match = self.regex.search(text)
        if match is None:
            return self.fallback
        group = self.group if self.group <= self.regex.groups else 0
        return (match[group] or "").strip()

    __call__ = extract


class MCQExtractor:
    """The letter of the option that the text names."""

    def __init__(self, choices: Sequence[str] | None = None) -> None:
        self.choices = choices

    def extract(self, text: str, **kwargs: Any) -> str:
        return find_choice_letter(text, kwargs.get("choices", self.choices))

    __call__ = extract


class NumberExtractor:
    r"""The content of ``\boxed{…}``, else the last number, without commas."""

    def __init__(self, fallback: str = "") -> None:
        self.fallback = fallback

    def extract(self, text: str, **kwargs: Any) -> str:
        if boxed := _BOXED.search(text):
            return str(boxed[1]).strip()
        numbers = _NUMBER.findall(text)
        return str(numbers[-1]).replace(",", "") if numbers else self.fallback

    __call__ = extract


class StripExtractor:
    """Takes out the special tokens of common models, and white space at the ends."""

    def extract(self, text: str, **kwargs: Any) -> str:
        for token in _SPECIAL_TOKENS:
            text = text.replace(token, "")
        return text.strip()

    __call__ = extract


EXTRACTORS: Mapping[str, Callable[..., Extractor]] = {
    "strip_reasoning": StripReasoningExtractor,
    "regex": RegexExtractor,
    "mcq": MCQExtractor,
    "number": NumberExtractor,
    "strip": StripExtractor,
}

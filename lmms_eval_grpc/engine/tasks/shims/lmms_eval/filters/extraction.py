"""``lmms_eval.filters.extraction``: filters that find an answer with a pattern, to be used or derived from."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lmms_eval_grpc.engine.tasks import shims
from lmms_eval_grpc.engine.tasks.shims.lmms_eval.api.filter import Filter


class WhitespaceFilter(Filter):
    """Drops one space at the start of each response."""

    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> list[Any]:
        return [[response.removeprefix(" ") for response in responses] for responses in resps]


class RegexFilter(Filter):
    """What the pattern finds in each response: match number ``group_select``, or ``fallback`` without any match."""

    def __init__(
        self, regex_pattern: str = r"#### (\-?[0-9\.\,]+)", group_select: int = 0, fallback: str = "[invalid]"
    ) -> None:
        self.regex_pattern = regex_pattern
        self.regex = re.compile(regex_pattern)
        self.group_select = group_select
        self.fallback = fallback

    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> list[Any]:
        return [[_found(self.regex, response, self.group_select) or self.fallback for response in r] for r in resps]


class ExtendedRegexFilter(RegexFilter):
    """A :class:`RegexFilter` with helpers for filters that compare with the document's own choices."""

    punct_tbl: ClassVar[dict[int, None]] = dict.fromkeys(
        code for code in range(sys.maxunicode) if unicodedata.category(chr(code))[0] == "P"
    )

    def __init__(
        self,
        regex_pattern: str = r"#### (\-?[0-9\.\,]+)",
        group_select: int = 0,
        fallback: str = "[invalid]",
        ignore_case: bool = False,
        ignore_punctuation: bool = False,
        regexes_to_ignore: Sequence[str] | None = None,
    ) -> None:
        super().__init__(regex_pattern, group_select, fallback)
        self.ignore_case = ignore_case
        self.ignore_punctuation = ignore_punctuation
        self.regexes_to_ignore = regexes_to_ignore

    def filter_ignores(self, st: str) -> str:
        """``st`` without what is to be ignored: patterns, then case, then punctuation."""
        for pattern in self.regexes_to_ignore or ():
            st = re.sub(pattern, "", st)
        st = st.lower() if self.ignore_case else st
        return st.translate(self.punct_tbl) if self.ignore_punctuation else st

    def find_match(self, regex: re.Pattern[str], resp: str, convert_dict: Mapping[str, str] | None = None) -> Any:
        """The selected match, replaced by what ``convert_dict`` says for it; an empty list without any match."""
        match = _found(regex, resp, self.group_select)
        if match is None:
            return []
        return (convert_dict or {}).get(match, match) if match else match


class MultiChoiceRegexFilter(ExtendedRegexFilter):
    """To ``(A)``, …: by the pattern, else by a text in ``doc["choices"]``, else by a letter after a colon."""

    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> list[Any]:
        return [[self._pick(r, doc["choices"]) for r in responses] for responses, doc in zip(resps, docs, strict=False)]

    def _pick(self, response: str, choices: Sequence[str]) -> Any:
        letters = [chr(ord("A") + number) for number in range(len(choices))]
        texts = [self.filter_ignores(choice.strip()) for choice in choices]
        by_text = {text: f"({letter})" for text, letter in zip(texts, letters, strict=True)}
        by_letter = {letter: f"({letter})" for letter in letters}
        any_text = re.compile("|".join(map(re.escape, texts)))
        after_colon = re.compile(rf":[\s]*({'|'.join(letters)})")
        return (
            self.find_match(self.regex, response)
            or self.find_match(any_text, self.filter_ignores(response), by_text)
            or self.find_match(after_colon, response, by_letter)
            or self.fallback
        )


def _found(regex: re.Pattern[str], text: str, index: int) -> str | None:
    matches = regex.findall(text)
    if not matches:
        return None
    match = matches[index]
    if isinstance(match, tuple):
        match = next(group for group in match if group)
    return str(match).strip()


def __getattr__(name: str) -> Any:
    return shims.real_attribute("lmms_eval.filters.extraction", name)

"""Filters: from a model's raw responses to what is scored.

A pipeline sees one document and its responses at a time, so a filter that reads the document can never be given another
one's, whatever the offset or the order of generation.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.engine.scoring.reasoning import strip_reasoning

Step = Callable[[Any, Mapping[str, Any]], Any]
"""Takes the value so far (a list of responses, or one) and the document; returns the next value."""

_THINKING_TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"))
_ANSWER_PATTERN = r"#### (\-?[0-9\.\,]+)"
_INVALID = "[invalid]"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A named chain of filters; its result is scored and reported under its name."""

    name: str
    steps: tuple[Step, ...]
    needs_media: bool = False
    """Whether a filter of the task's own is among them, which may read anything of the document."""

    def apply(self, responses: Sequence[str], document: Mapping[str, Any]) -> Any:
        """What the filters make of one document's responses: one response, or a list of them."""
        value: Any = list(responses)
        for step in self.steps:
            value = step(value, document)
        return value

    def apply_to_one(self, response: str, document: Mapping[str, Any]) -> Any:
        """What the filters make of one of several responses as if it were the only one."""
        value: Any = [response]
        for step in self.steps:
            if not isinstance(step, _TakeFirstK):
                value = step(value, document)
        return value


def build_pipelines(
    filter_list: Sequence[Mapping[str, Any]] | None, strip_thinking_first: bool
) -> tuple[Pipeline, ...]:
    """The pipelines of a task's ``filter_list``; without one, ``none`` with ``take_first`` alone.

    Raises ValueError for an unknown filter, wrong arguments, or two pipelines of one name.
    """
    first: tuple[Step, ...] = (_strip_thinking(),) if strip_thinking_first else ()
    if filter_list is None:
        return (Pipeline("none", (*first, take_first)),)
    pipelines = []
    for entry in filter_list:
        name, filters = entry.get("name"), entry.get("filter")
        if not isinstance(name, str) or not isinstance(filters, list) or not filters:
            raise ValueError(
                f"an entry of filter_list needs a name and a list called filter, but is {dict(entry)!r:.200}"
            )
        steps = tuple(_build_step(name, config) for config in filters)
        custom = any(callable(config.get("function")) for config in filters)
        pipelines.append(Pipeline(name, first + steps, needs_media=custom))
    repeated = [name for name, count in Counter(pipeline.name for pipeline in pipelines).items() if count > 1]
    if repeated:
        raise ValueError(
            f"filter_list has several pipelines called {repeated[0]!r}; their scores could not be told apart"
        )
    return tuple(pipelines)


def take_first(value: Any, document: Mapping[str, Any]) -> Any:
    """The first response; empty text where there is none."""
    if isinstance(value, list):
        return value[0] if value else ""
    return value


def _build_step(pipeline: str, config: Any) -> Step:
    function = config.get("function") if isinstance(config, Mapping) else None
    if function is None:
        raise ValueError(f"filter {pipeline!r}: each step needs a function, but one is {config!r:.200}")
    arguments = {key: value for key, value in config.items() if key != "function"}
    if callable(function):
        return _custom_step(function(**arguments))
    maker = _MAKERS.get(function)
    if maker is None:
        raise ValueError(f"filter {pipeline!r}: {function!r} is none of {', '.join(sorted(_MAKERS))}")
    try:
        return maker(**arguments)
    except (TypeError, ValueError, re.error) as error:
        raise ValueError(f"filter {pipeline!r}: {function}: {error}") from error


def _custom_step(instance: Any) -> Step:
    """A filter class of the task's own, in lmms-eval's form: ``apply(resps, docs)`` over lists of equal length."""

    def step(value: Any, document: Mapping[str, Any]) -> Any:
        return next(iter(instance.apply([value], [document])))

    return step


def _for_each(function: Callable[[Any], Any]) -> Step:
    """A step that treats each response alone, and a single one (after ``take_first``) as itself."""

    def step(value: Any, document: Mapping[str, Any]) -> Any:
        return [function(item) for item in value] if isinstance(value, list) else function(value)

    return step


def _take_first() -> Step:
    return take_first


@dataclass(frozen=True, slots=True)
class _TakeFirstK:
    """The first ``k`` responses."""

    k: int

    def __call__(self, value: Any, document: Mapping[str, Any]) -> Any:
        if len(value) < self.k:
            raise ValueError(
                f"take_first_k needs {self.k} responses per document, but there are {len(value)}; raise repeats"
            )
        return value[: self.k]


def _majority_vote() -> Step:
    def step(value: Any, document: Mapping[str, Any]) -> Any:
        return [Counter(value).most_common(1)[0][0]]  # equal counts: the one that came first

    return step


def _regex(regex_pattern: str = _ANSWER_PATTERN, group_select: int = 0, fallback: str = _INVALID) -> Step:
    pattern = re.compile(regex_pattern)

    def pick(response: str) -> str:
        match = _select(pattern, response, group_select)
        return fallback if match is None else match

    return _for_each(pick)


def _multi_choice_regex(
    regex_pattern: str = _ANSWER_PATTERN,
    group_select: int = 0,
    fallback: str = _INVALID,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    regexes_to_ignore: Sequence[str] | None = None,
) -> Step:
    """To ``(A)``, …: by the pattern, else by a text in ``document["choices"]``, else by a letter after a colon."""
    pattern = re.compile(regex_pattern)
    ignored = [re.compile(regex) for regex in regexes_to_ignore or ()]

    def simplify(text: str) -> str:
        for regex in ignored:
            text = regex.sub("", text)
        text = text.lower() if ignore_case else text
        return text.translate(_punctuation()) if ignore_punctuation else text

    def step(value: Any, document: Mapping[str, Any]) -> Any:
        letters = {simplify(choice.strip()): f"({chr(ord('A') + i)})" for i, choice in enumerate(document["choices"])}
        texts = re.compile("|".join(re.escape(text) for text in letters))
        bare = [chr(ord("A") + i) for i in range(len(document["choices"]))]
        after_colon = re.compile(rf":[\s]*({'|'.join(bare)})")

        def pick(response: str) -> str:
            if match := _select(pattern, response, group_select):
                return match
            if match := _select(texts, simplify(response), group_select):
                return letters.get(match, match)
            if match := _select(after_colon, response, group_select):
                return f"({match})"
            return fallback

        return _for_each(pick)(value, document)

    return step


def _remove_whitespace() -> Step:
    return _for_each(lambda response: response.removeprefix(" "))


def _lowercase() -> Step:
    return _for_each(str.lower)


def _uppercase() -> Step:
    return _for_each(str.upper)


def _map(mapping_dict: Mapping[Any, Any] | None = None, default_value: Any = None) -> Step:
    mapping = mapping_dict or {}
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping_dict must be a mapping, but is {mapping_dict!r}")
    return _for_each(lambda response: mapping.get(response, default_value))


def _strip_thinking(tag_pairs: Sequence[Sequence[str]] | None = None) -> Step:
    pairs = _THINKING_TAGS if not tag_pairs else tuple((pair[0], pair[1]) for pair in tag_pairs)
    return _for_each(lambda response: strip_reasoning(response, pairs) if isinstance(response, str) else response)


_MAKERS: Mapping[str, Callable[..., Step]] = {
    "take_first": _take_first,
    "take_first_k": _TakeFirstK,
    "majority_vote": _majority_vote,
    "regex": _regex,
    "multi_choice_regex": _multi_choice_regex,
    "remove_whitespace": _remove_whitespace,
    "lowercase": _lowercase,
    "uppercase": _uppercase,
    "map": _map,
    "strip_thinking": _strip_thinking,
}


def _select(pattern: re.Pattern[str], text: str, index: int) -> str | None:
    """The match at ``index``, of several groups the first that is not empty; None when there is none."""
    matches = pattern.findall(text)
    try:
        match = matches[index]
    except IndexError:
        return None
    if isinstance(match, tuple):
        match = next((group for group in match if group), "")
    return str(match).strip()


@functools.lru_cache(maxsize=1)
def _punctuation() -> dict[int, None]:
    """A translation table that removes everything Unicode calls punctuation."""
    return dict.fromkeys(code for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P"))

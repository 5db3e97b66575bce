"""``lmms_eval.filters.transformation``: filters that change each response for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmms_eval_grpc.engine.scoring.reasoning import strip_reasoning
from lmms_eval_grpc.engine.tasks.shims.lmms_eval.api.filter import Filter


def _each(change: Callable[[Any], Any], resps: Sequence[Any]) -> list[Any]:
    return [[change(response) for response in responses] for responses in resps]


class LowercaseFilter(Filter):
    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> list[Any]:
        return _each(str.lower, resps)


class UppercaseFilter(Filter):
    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> list[Any]:
        return _each(str.upper, resps)


class MapFilter(Filter):
    """Replaces each response by what ``mapping_dict`` says for it, else by ``default_value``."""

    def __init__(self, mapping_dict: Mapping[Any, Any] | None = None, default_value: Any = None) -> None:
        self.mapping_dict = dict(mapping_dict or {})
        self.default_value = default_value

    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> list[Any]:
        return _each(lambda response: self.mapping_dict.get(response, self.default_value), resps)


class StripThinkingFilter(Filter):
    """Removes what stands between the tags."""

    def __init__(self, tag_pairs: Sequence[Sequence[str]] | None = None) -> None:
        self.tag_pairs = [
            (pair[0], pair[1]) for pair in tag_pairs or (("<think>", "</think>"), ("<thinking>", "</thinking>"))
        ]

    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> list[Any]:
        return _each(lambda text: strip_reasoning(text, self.tag_pairs) if isinstance(text, str) else text, resps)

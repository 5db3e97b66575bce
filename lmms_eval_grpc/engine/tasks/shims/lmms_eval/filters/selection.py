"""``lmms_eval.filters.selection``: filters that choose among a document's responses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lmms_eval_grpc.engine.tasks.shims.lmms_eval.api.filter import Filter


class TakeFirstFilter(Filter):
    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> list[Any]:
        return [responses[0] if responses else "" for responses in resps]


class TakeKFilter(Filter):
    def __init__(self, k: int) -> None:
        self.k = k

    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> list[Any]:
        if any(len(responses) < self.k for responses in resps):
            raise ValueError(f"take_first_k needs {self.k} responses per document; raise repeats")
        return [responses[: self.k] for responses in resps]


class MajorityVoteFilter(Filter):
    """The most frequent response, alone in a list; the first of them where several are as frequent."""

    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> list[Any]:
        return [[Counter(responses).most_common(1)[0][0]] for responses in resps]

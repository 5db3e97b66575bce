"""Which documents serve as examples in a document's prompt."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmms_eval_grpc.engine.data.documents import Documents

SAMPLERS = ("default", "first_n")


@dataclass(frozen=True, slots=True)
class FewShot:
    """Examples for each document of one task."""

    documents: Documents
    """The split that examples come from."""
    count: int
    """Examples per prompt."""
    same_split: bool
    """Whether that is the evaluated split too; then a document is never its own example."""
    fingerprint: str = ""
    """Of the data that examples come from."""
    sampler: str = "default"
    seed: int | None = 1234
    stream: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Examples by document, where they were drawn ahead: see :func:`draw_stream`."""

    def choose(self, doc_id: int) -> list[int]:
        """Numbers of the examples for document ``doc_id``: the same whatever the limit, the offset and the order."""
        wanted = self.count + 1 if self.same_split else self.count
        if self.sampler == "first_n":
            picks: Sequence[int] = range(min(wanted, len(self.documents)))
        elif doc_id in self.stream:
            picks = self.stream[doc_id]
        else:
            picks = random.Random(f"{self.seed} {doc_id}").sample(range(len(self.documents)), wanted)
        return [pick for pick in picks if not (self.same_split and pick == doc_id)][: self.count]


def draw_stream(fewshot: FewShot, doc_ids: Sequence[int]) -> dict[int, list[int]]:
    """The examples that lmms-eval on one process draws: one generator for all documents, in their order."""
    generator = random.Random(fewshot.seed)
    wanted = fewshot.count + 1 if fewshot.same_split else fewshot.count
    return {doc_id: generator.sample(range(len(fewshot.documents)), wanted) for doc_id in doc_ids}


def check_fewshot(fewshot_config: Mapping[str, Any] | None) -> str:
    """The sampler that ``fewshot_config`` names. Raises ValueError for one that does not exist."""
    sampler = (fewshot_config or {}).get("sampler", "default")
    if sampler not in SAMPLERS:
        raise ValueError(f"fewshot_config.sampler must be one of {', '.join(SAMPLERS)}, but is {sampler!r}")
    return str(sampler)

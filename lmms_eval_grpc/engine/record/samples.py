"""One record per sample and filter: what was asked, what was answered, how it was scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

from lmms_eval_grpc.engine.record.plain_json import dump_line

if TYPE_CHECKING:
    from lmms_eval_grpc.engine.scoring.process import FilteredScore

Outcome = Literal["ok", "model_error", "scoring_error", "judge_error", "budget_exceeded"]


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """What became of one document in one filter pipeline; one JSON line in ``samples.jsonl``.

    The field names are a promise to everything that reads that file. A sample that failed before its filters ran (a
    model error, a spent budget) has one record with an empty ``filter``, no ``scores`` and its reason in ``error``.
    """

    task: str
    doc_id: int
    filter: str
    outcome: Outcome
    prompt: str = ""
    """The request's text, media left out."""
    target: str = ""
    """The document's target as text."""
    responses: tuple[str, ...] = ()
    """What the model said, untouched; one per repeat."""
    filtered_responses: tuple[str, ...] = ()
    """After the filters and the removal of reasoning tags: what was scored."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the task's scorer returned, by metric; plain JSON once it was written."""
    input_tokens: int = 0
    output_tokens: int = 0
    """Tokens of all responses together."""
    reasoning_tokens: int = 0
    """Of ``output_tokens``, those of thinking that the responses do not show, where a server tells."""
    error: str = ""
    """Why there is no score; empty when ``outcome`` is ``ok``."""
    doc_hash: str = ""
    """SHA-256 of the document's values, its media included."""
    repeats: int = 1
    """How many responses were asked for."""

    def to_json(self) -> str:
        """One line of plain JSON, without a line end; NaN and infinities become null."""
        return dump_line({name: getattr(self, name) for name in _FIELDS})

    @classmethod
    def from_json(cls, line: str) -> SampleRecord:
        """Reads what :meth:`to_json` wrote; keys of a later version are ignored.

        Raises ValueError for a line that is not such a record, as the torn last line of a run log is.
        """
        values = json.loads(line)
        if not isinstance(values, dict) or values.get("outcome") not in get_args(Outcome):
            raise ValueError(f"not a sample record: {line[:80]!r}")
        known = {name: values[name] for name in _FIELDS if name in values}
        for name in ("responses", "filtered_responses"):
            known[name] = tuple(known.get(name, ()))
        try:
            return cls(**known)
        except TypeError as error:
            raise ValueError(f"not a sample record ({error}): {line[:80]!r}") from error


_FIELDS = tuple(item.name for item in fields(SampleRecord))


def scored_records(common: Mapping[str, Any], scores: Iterable[FilteredScore]) -> list[SampleRecord]:
    """A scored sample's records. ``common`` are the fields that do not depend on the scores."""
    return [
        SampleRecord(
            filter=score.filter,
            outcome="ok",
            filtered_responses=score.filtered_responses,
            scores=score.scores,
            **common,
        )
        for score in scores
    ]


def unscored_record(common: Mapping[str, Any], outcome: Outcome, error: str) -> SampleRecord:
    """The record of a sample without scores, and why it has none."""
    return SampleRecord(filter="", outcome=outcome, error=error, **common)


class _Sample(Protocol):
    """What tells records apart."""

    @property
    def task(self) -> str: ...
    @property
    def doc_id(self) -> int: ...
    @property
    def filter(self) -> str: ...
    @property
    def outcome(self) -> str: ...


S = TypeVar("S", bound=_Sample)


def valid_records(records: Iterable[S]) -> Iterator[S]:
    """``records`` without those that a later one made void, sample by sample.

    An evaluation that is taken up again may come to another outcome for a sample: it has tokens again, or its judge
    answers now. Then what was written about that sample before no longer holds.
    """
    by_sample: dict[tuple[str, int], dict[str, S]] = {}
    for record in records:
        of_sample = by_sample.setdefault((record.task, record.doc_id), {})
        if any(known.outcome != record.outcome for known in of_sample.values()):
            of_sample.clear()
        of_sample[record.filter] = record
    for of_sample in by_sample.values():
        yield from of_sample.values()


def to_lmms_eval_sample(record: SampleRecord) -> dict[str, Any]:
    """``record`` with the keys of a line in lmms-eval's samples file, ``filter`` and the outcome added.

    The metrics stand at the top level as they do there, after every key of ours, so that a metric never hides one:
    a metric whose name is taken is found as ``metric_<name>``.
    """
    filtered = _unwrap(record.filtered_responses)
    sample: dict[str, Any] = {"doc_id": record.doc_id, "target": record.target}
    if _unwrap(record.responses) != filtered:
        sample["resps"] = list(record.responses)
    sample |= {
        "filtered_resps": filtered,
        "token_counts": [
            {
                "input_tokens": record.input_tokens,
                "output_tokens": record.output_tokens,
                "reasoning_tokens": record.reasoning_tokens,
            }
        ],
        "doc_hash": record.doc_hash,
        "prompt_hash": text_digest(record.prompt),
        "target_hash": text_digest(record.target),
        "input": record.prompt,
        "filter": record.filter,
        "outcome": record.outcome,
    }
    if record.error:
        sample["error"] = record.error
    for metric, score in record.scores.items():
        sample[f"metric_{metric}" if metric in sample else metric] = score
    return sample


def text_digest(text: str) -> str:
    """SHA-256 of ``text`` as UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _unwrap(responses: Sequence[str]) -> Any:
    """A single response as itself, several as a list: lmms-eval's habit."""
    return responses[0] if len(responses) == 1 else list(responses)

"""Reading what evaluations left on disk: samples and results of this package and of lmms-eval."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.record.samples import SampleRecord, valid_records

SAMPLES_NAME = re.compile(r"^(?P<date>.+?)_samples_(?P<task>.+)\.jsonl$")
"""The name of a samples file in lmms-eval's layout."""
_RESULTS_SUFFIX = "_results.json"
_ERROR_KIND = re.compile(r"_(stderr|stderr_clt|stderr_clustered)$")
_NO_METRICS = frozenset(
    {
        "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "token_counts", "doc_hash", "prompt_hash",
        "target_hash", "input", "input_media", "filter", "outcome", "error",
    }
)  # fmt: skip
_CONSTANT_DOC_HASH = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
"""What lmms-eval writes for every document: the digest of JSON's ``null``."""


@dataclass(frozen=True, slots=True)
class StoredSample:
    """One line of a samples file, whoever wrote it."""

    task: str
    doc_id: int
    filter: str
    outcome: str
    """``ok``, or what went wrong."""
    responses: tuple[Any, ...]
    """As far as they were kept: untouched by filters, except that lmms-eval replaces them by the filtered ones where it
    strips reasoning."""
    scores: Mapping[str, Any]
    doc_hash: str = ""
    """Empty where it is not known."""
    target: str = ""
    prompt: str = ""
    error: str = ""
    tokens: tuple[int, int] = (0, 0)
    """Given and made."""

    def score(self, metric: str, score_key: str = "score") -> float | None:
        """The number that the sample has in ``metric``, of a mapping that under ``score_key``; None: there is none.

        A mapping without it that has an answer and the right one (``pred_answer`` or ``pred``, ``answer`` or
        ``target``), as tasks return whose aggregation compares them, is 1 where they are equal but for case, else 0.
        """
        value = self.scores.get(metric)
        if isinstance(value, Mapping):
            value = value[score_key] if score_key in value else _equality(value)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class StoredMetric:
    """One metric of one task or group in a results file."""

    value: float | None
    """None where it is undefined."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """By lmms-eval's names: ``stderr``, ``stderr_clt``, ``stderr_clustered``; those that are not available are left
    out."""


@dataclass(frozen=True, slots=True)
class StoredResults:
    """A results file."""

    document: Mapping[str, Any]
    """All of it."""
    metrics: Mapping[str, Mapping[tuple[str, str], StoredMetric]]
    """By task or group, then by metric and filter."""
    model_name: str
    samples_paths: Mapping[str, Path]
    """The samples files that lie beside it, by task."""

    def higher_is_better(self, task: str) -> Mapping[str, bool]:
        """By metric, as far as it is said."""
        listed = self.document.get("higher_is_better", {}).get(task) or {}
        return {metric: better for metric, better in listed.items() if isinstance(better, bool)}


def read_samples(path: Path, task: str | None = None) -> list[StoredSample]:
    """The samples in ``path``: this package's ``samples.jsonl``, or a samples file in lmms-eval's layout.

    That layout does not name the task: it is taken from the file's name unless ``task`` says it. lmms-eval does not
    name filters either; of several lines for one document the second is called ``none#2``, and so on. Of a sample about
    which attempts of one evaluation decided differently there is what the last one said.

    Raises EvaluationError RECORD_UNREADABLE, naming the line.
    """
    named = SAMPLES_NAME.match(path.name)
    task = task or (named["task"] if named else None)
    samples: list[StoredSample] = []
    seen: dict[int, int] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    samples.append(_read_line(line, task, seen))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    what = f"no {error} in it" if isinstance(error, KeyError) else str(error)
                    raise _unreadable(f"{path.name}, line {number}: not a sample: {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(f"{path} cannot be read: {error}") from error
    return list(valid_records(samples))


def read_results(path: Path) -> StoredResults:
    """The results in ``path``, a file of this package or of lmms-eval. Raises EvaluationError RECORD_UNREADABLE."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = document["results"]
        metrics = {name: _read_metrics(row) for name, row in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(f"{path} is not a results file: {type(error).__name__}: {error}") from error
    return StoredResults(document, metrics, str(document.get("model_name") or ""), _samples_beside(path))


def _read_line(line: str, task: str | None, seen: dict[int, int]) -> StoredSample:
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError(f"{line[:80]!r}")
    if "responses" in values:
        return _from_record(SampleRecord.from_json(line))
    if task is None:
        raise ValueError("its file does not say of which task; name the task")
    return _from_lmms_eval(values, task, seen)


def _from_record(record: SampleRecord) -> StoredSample:
    return StoredSample(
        task=record.task,
        doc_id=record.doc_id,
        filter=record.filter,
        outcome=record.outcome,
        responses=record.responses,
        scores=record.scores,
        doc_hash=record.doc_hash,
        target=record.target,
        prompt=record.prompt,
        error=record.error,
        tokens=(record.input_tokens, record.output_tokens),
    )


def _from_lmms_eval(values: Mapping[str, Any], task: str, seen: dict[int, int]) -> StoredSample:
    doc_id = int(values["doc_id"])
    seen[doc_id] = occurrence = seen.get(doc_id, 0) + 1
    unnamed = "none" if occurrence == 1 else f"none#{occurrence}"
    digest = values.get("doc_hash") or ""
    outcome = str(values.get("outcome", "ok"))
    raw = values.get("resps", values["filtered_resps"])
    counts = [count for count in values.get("token_counts") or () if isinstance(count, Mapping)]
    return StoredSample(
        task=task,
        doc_id=doc_id,
        filter=str(values.get("filter", unnamed)),
        outcome=outcome,
        responses=tuple(_flat(raw)) if isinstance(raw, list) else (raw,),
        scores=_scores(values) if outcome == "ok" else {},
        doc_hash="" if digest == _CONSTANT_DOC_HASH else digest,
        target=str(values.get("target", "")),
        prompt=values["input"] if isinstance(values.get("input"), str) else "",
        error=str(values.get("error", "")),
        tokens=(
            sum(count.get("input_tokens") or 0 for count in counts),
            sum(count.get("output_tokens") or 0 for count in counts),
        ),
    )


def _scores(values: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics among a line's keys; one whose name is a key of every line stands there as ``metric_<name>``."""
    return {
        key.removeprefix("metric_") if key.removeprefix("metric_") in _NO_METRICS else key: value
        for key, value in values.items()
        if key not in _NO_METRICS
    }


def _flat(responses: list[Any]) -> list[Any]:
    """``[[a, b]]`` and ``[a, b]`` mean the same: the responses to the one request."""
    return responses[0] if len(responses) == 1 and isinstance(responses[0], list) else responses


def _read_metrics(row: Mapping[str, Any]) -> dict[tuple[str, str], StoredMetric]:
    values: dict[tuple[str, str], float | None] = {}
    errors: dict[tuple[str, str], dict[str, float]] = {}
    for key, value in row.items():
        metric, comma, filter_name = key.rpartition(",")
        if not comma:
            continue
        kind = _ERROR_KIND.search(metric)
        if kind is None:
            values[metric, filter_name] = _number(value)
        elif (number := _number(value)) is not None:
            errors.setdefault((metric[: kind.start()], filter_name), {})[kind[1]] = number
    return {key: StoredMetric(value, errors.get(key, {})) for key, value in values.items()}


def _equality(value: Mapping[str, Any]) -> float | None:
    """lmms-eval's reading of a baseline's mappings."""
    given = next((value[key] for key in ("pred_answer", "pred") if value.get(key) is not None), None)
    right = next((value[key] for key in ("answer", "target") if value.get(key) is not None), None)
    if given is None or right is None:
        return None
    return float(str(given).strip().upper() == str(right).strip().upper())


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _samples_beside(path: Path) -> dict[str, Path]:
    if not path.name.endswith(_RESULTS_SUFFIX):
        return {}
    date = path.name.removesuffix(_RESULTS_SUFFIX)
    found = (SAMPLES_NAME.match(item.name) for item in sorted(path.parent.iterdir()))
    return {match["task"]: path.parent / match[0] for match in found if match and match["date"] == date}


def _unreadable(message: str) -> EvaluationError:
    return EvaluationError("RECORD_UNREADABLE", message)

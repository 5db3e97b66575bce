"""The comparison with a baseline: an earlier run's samples, read before the model is loaded."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lmms_eval_grpc.engine.api import BaselineComparison, EvaluationError, TaskScore
from lmms_eval_grpc.engine.record import hub_files
from lmms_eval_grpc.engine.record.baseline_source import (
    BaselineNameError,
    HubSource,
    LocalSource,
    Source,
    newest_by_task,
    parse_baseline,
)
from lmms_eval_grpc.engine.record.comparison import MetricComparison, Verdict, check_documents, compare_runs
from lmms_eval_grpc.engine.record.plain_json import to_plain
from lmms_eval_grpc.engine.record.results import safe_name
from lmms_eval_grpc.engine.record.stored import SAMPLES_NAME, StoredSample, read_results, read_samples
from lmms_eval_grpc.engine.scoring.aggregate import ScoredSample, cluster_id
from lmms_eval_grpc.engine.tasks.task import Task

_log = logging.getLogger(__name__)

_VERDICTS: Mapping[Verdict, Literal["better", "worse", "not_enough_evidence"]] = {
    "first": "better",
    "second": "worse",
    "not_enough_evidence": "not_enough_evidence",
}
_OWN_SAMPLES = "samples.jsonl"
"""What a job's folder has, with the samples of all its tasks."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier run."""

    name: str
    """As the user wrote it."""
    samples: Mapping[str, Sequence[StoredSample]]
    """By task, of those that are evaluated; without responses and prompts, which nobody compares."""
    files: Mapping[str, str]
    """SHA-256 by name of the files that were read."""

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {"name": self.name, "files": dict(self.files), "tasks": sorted(self.samples)}


def load_baseline(name: str, tasks: Sequence[Task], doc_ids: Mapping[str, Sequence[int]]) -> Baseline:
    """The baseline ``name`` (as :func:`.baseline_source.parse_baseline` reads it), for ``tasks`` over ``doc_ids``.

    Raises EvaluationError: BASELINE_UNREADABLE, DOCUMENTS_DIFFER where a document of the baseline is not the one that
    the task has under its number, NOTHING_TO_COMPARE where it has no score of any of the tasks' metrics and documents.
    """
    try:
        source = parse_baseline(name)
    except BaselineNameError as error:
        raise EvaluationError("BASELINE_UNREADABLE", f"baseline: {error}") from error
    by_name = {safe_name(task.name): task for task in tasks}
    samples: dict[str, list[StoredSample]] = {}
    files = {}
    try:
        for path, named in _files(source, by_name):
            of_task = named or (tasks[0].name if len(tasks) == 1 else None)
            for sample in read_samples(path, task=of_task):
                samples.setdefault(sample.task, []).append(sample)
            files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    except EvaluationError as error:
        raise EvaluationError("BASELINE_UNREADABLE", f"baseline {name!r}: {error.message}") from error
    wanted = {
        task.name: found
        for task in tasks
        if (found := list(_of_interest(task, samples.get(task.name, ()), doc_ids[task.name])))
    }
    if not wanted:
        raise EvaluationError("NOTHING_TO_COMPARE", _nothing(name, tasks, samples))
    for task in tasks:
        _check_hashes(name, task, wanted.get(task.name, ()))
        if task.name not in wanted:
            _log.warning("baseline %s has no score of task %s: it is not compared", name, task.name)
    return Baseline(name, wanted, files)


def compare_with_baseline(
    baseline: Baseline, task: Task, score: TaskScore, scored: Sequence[ScoredSample]
) -> TaskScore:
    """``score`` of ``task`` with, at each metric that the baseline has too, how this run differs from it.

    ``scored`` are the samples that the score was made of. p-values are adjusted over the metrics of this task.
    """
    earlier = baseline.samples.get(task.name)
    if earlier is None:
        return score
    names = [metric.name for metric in task.metrics]
    try:
        compared = compare_runs(
            list(_as_stored(task, scored)),
            earlier,
            metrics=names,
            higher_is_better=task.higher_is_better,
            clusters=_clusters(task, scored),
            score_key=task.config.score_key,
        )
    except EvaluationError as error:
        if error.reason != "NOTHING_TO_COMPARE":
            raise
        _log.warning("task %s is not compared with the baseline: %s", task.name, error.message)
        return score
    by_metric = {(one.pairs.metric, one.pairs.filter): one for one in compared if one.pairs.doc_ids}
    metrics = (
        replace(metric, baseline=_summary(baseline.name, one))
        if (one := by_metric.get((metric.name, metric.filter)))
        else metric
        for metric in score.metrics
    )
    return replace(score, metrics=tuple(metrics))


def _files(source: Source, by_name: Mapping[str, Task]) -> Iterator[tuple[Path, str | None]]:
    """The samples files to read, each with its task's name; None where the file itself may say."""
    if isinstance(source, LocalSource):
        yield from _local_files(source.path, by_name)
    elif isinstance(source, HubSource):
        yield from _hub_files(source, by_name)
    elif source.files.keys().isdisjoint(by_name):
        message = f"the preset is of {', '.join(sorted(source.files))}, and not of {', '.join(sorted(by_name))}"
        raise EvaluationError("BASELINE_UNREADABLE", f"{message}; name a file of a run of these tasks")
    else:
        for task, file in source.files.items():
            if task in by_name:
                yield hub_files.download(file), by_name[task].name


def _local_files(path: Path, by_name: Mapping[str, Task]) -> Iterator[tuple[Path, str | None]]:
    if path.is_dir():
        newest = newest_by_task(str(file) for file in path.rglob("*.jsonl"))
        if not newest and (path / _OWN_SAMPLES).is_file():
            yield path / _OWN_SAMPLES, None
        elif not newest:
            raise EvaluationError("BASELINE_UNREADABLE", "there is no samples file (*_samples_<task>.jsonl) below it")
        for name, file in newest.items():
            if name in by_name:
                yield Path(file), by_name[name].name
    elif path.suffix == ".json":
        beside = read_results(path).samples_paths
        if not beside:
            message = "no samples file lies beside these results; a comparison needs samples, so run with log_samples"
            raise EvaluationError("BASELINE_UNREADABLE", message)
        for name, samples in beside.items():
            if name in by_name:
                yield samples, by_name[name].name
    else:
        named = SAMPLES_NAME.match(path.name)
        # A file of another task is read too, so that the message can say what it is of.
        yield path, (by_name[named["task"]].name if named["task"] in by_name else named["task"]) if named else None


def _hub_files(source: HubSource, by_name: Mapping[str, Task]) -> Iterator[tuple[Path, str | None]]:
    if source.file is not None:
        yield from _local_files(hub_files.download(source), by_name)
        return
    listed = [file for file in hub_files.listing(source) if file.endswith(".jsonl")]
    newest = newest_by_task(listed)
    if not newest and len(listed) == 1:
        yield from _local_files(hub_files.download(replace(source, file=listed[0])), by_name)
    elif not newest:
        message = f"the repository has no samples file (*_samples_<task>.jsonl) among {len(listed)} .jsonl files"
        raise EvaluationError("BASELINE_UNREADABLE", f"{message}; name one as hf://{source.repo}/<file>")
    for name, file in newest.items():
        if name in by_name:
            yield hub_files.download(replace(source, file=file)), by_name[name].name


def _of_interest(task: Task, samples: Sequence[StoredSample], doc_ids: Sequence[int]) -> Iterator[StoredSample]:
    """Those that can be compared, under the names of the task's filters.

    lmms-eval does not name filters, but writes them in the task's order: ``none``, ``none#2`` and so on are the first,
    the second and so on where the task has no such filter.
    """
    filters = [pipeline.name for pipeline in task.pipelines]
    by_position = {"none" if n == 1 else f"none#{n}": name for n, name in enumerate(filters, start=1)}
    wanted, metrics = set(doc_ids), [metric.name for metric in task.metrics]
    for sample in samples:
        name = sample.filter if sample.filter in filters else by_position.get(sample.filter)
        if name is None or sample.doc_id not in wanted or sample.outcome != "ok":
            continue
        if any(sample.score(metric, task.config.score_key) is not None for metric in metrics):
            yield replace(sample, filter=name, responses=(), prompt="")


def _nothing(name: str, tasks: Sequence[Task], samples: Mapping[str, Sequence[StoredSample]]) -> str:
    asked = ", ".join(f"{task.name} ({', '.join(metric.name for metric in task.metrics)})" for task in tasks[:5])
    has = ", ".join(
        f"{task} ({', '.join(sorted({metric for sample in found for metric in sample.scores})[:8])})"
        for task, found in sorted(samples.items())[:5]
    )
    return (
        f"baseline {name!r} has no score of these tasks, metrics and documents: {asked}; it has {has or 'no sample'}. "
        "Name a run of the same tasks, over documents that limit and offset select"
    )


def _check_hashes(name: str, task: Task, earlier: Sequence[StoredSample]) -> None:
    hashed = {sample.doc_id for sample in earlier if sample.doc_hash}
    own = [StoredSample(task.name, doc_id, "", "ok", (), {}, task.doc_hash(doc_id)) for doc_id in sorted(hashed)]
    try:
        check_documents(own, earlier)
    except EvaluationError as error:
        raise EvaluationError(error.reason, f"baseline {name!r}: {error.message}") from error


def _as_stored(task: Task, scored: Sequence[ScoredSample]) -> Iterator[StoredSample]:
    names = {metric.name for metric in task.metrics}
    for sample in scored:
        for score in sample.scores:
            values = {metric: to_plain(value) for metric, value in score.scores.items() if metric in names}
            yield StoredSample(task.name, sample.doc_id, score.filter, "ok", (), values)


def _clusters(task: Task, scored: Sequence[ScoredSample]) -> dict[tuple[str, int], Hashable] | None:
    """Each document's cluster, where the task names the key and every document has it; else None."""
    key = task.config.cluster_key
    if key is None:
        return None
    clusters: dict[tuple[str, int], Hashable] = {}
    for sample in scored:
        for value in (value for score in sample.scores for value in score.scores.values()):
            if isinstance(value, Mapping) and value.get(key) is not None:
                clusters[task.name, sample.doc_id] = cluster_id(value[key])
    return clusters if len(clusters) == len(scored) else None


def _summary(name: str, one: MetricComparison) -> BaselineComparison:
    return BaselineComparison(
        baseline=name,
        documents=len(one.pairs.doc_ids),
        score=one.mean_first or 0.0,
        baseline_score=one.mean_second or 0.0,
        difference=one.difference or 0.0,
        confidence_lower=one.t.interval.lower if one.t else None,
        confidence_upper=one.t.interval.upper if one.t else None,
        confidence_method="" if one.t is None else "t" if one.method != "paired_t_clustered" else "t_clustered",
        t_p_value=one.t.p_value if one.t else None,
        p_value=one.p_value if one.method else None,
        adjusted_p_value=one.adjusted_p_value if one.method else None,
        method=one.method,
        verdict=_VERDICTS[one.verdict],
        minimum_detectable_effect=one.minimum_detectable_effect,
    )

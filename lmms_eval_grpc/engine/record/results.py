"""The results document and the samples files, in lmms-eval's layout."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from lmms_eval_grpc.engine.api import EvaluationConfig, MetricScore, TaskScore
from lmms_eval_grpc.engine.record import usage
from lmms_eval_grpc.engine.record.atomic import write_text
from lmms_eval_grpc.engine.record.plain_json import dump_document, dump_line, to_plain
from lmms_eval_grpc.engine.record.redact import redact
from lmms_eval_grpc.engine.record.samples import SampleRecord, text_digest, to_lmms_eval_sample
from lmms_eval_grpc.engine.tasks.task import Task

_NOT_AVAILABLE = "N/A"
_MODEL_NAME_KEYS = ("peft", "delta", "pretrained", "model", "model_version", "model_name", "model_id", "path", "engine")
_UNSAFE = re.compile(r"[\"<>:/|\\?*\[\]]+")


class WrittenResults(NamedTuple):
    """What :func:`write_results` left behind."""

    document: dict[str, Any]
    """Plain JSON values only; numbers that are undefined are None."""
    results_path: Path
    samples_paths: tuple[Path, ...]


def write_results(
    config: EvaluationConfig,
    tasks: Sequence[Task],
    scores: Sequence[TaskScore],
    sample_records: Iterable[SampleRecord],
    manifest: Mapping[str, Any],
    output_dir: Path,
    *,
    started: datetime,
    finished: datetime,
    batch_sizes: Sequence[int] = (),
    throughput: Mapping[str, Any] | None = None,
) -> WrittenResults:
    """Writes ``<output_dir>/<model>/<date>_results.json`` and, per task, ``<date>_samples_<task>.jsonl`` beside it.

    ``scores`` are those of ``tasks``, in their order. Samples files are written only where there are
    ``sample_records``; within a file they are sorted by document. The date is ``started`` in UTC, with a number
    behind it where another evaluation took that name.
    """
    by_task: dict[str, list[SampleRecord]] = {task.name: [] for task in tasks}
    for record in sample_records:
        by_task.setdefault(record.task, []).append(record)
    for records in by_task.values():
        records.sort(key=lambda record: record.doc_id)
    document = build_document(config, tasks, scores, by_task, manifest, started, finished, batch_sizes, throughput)
    folder = output_dir / model_folder(config)
    date = _free_date(folder, started)
    samples_paths = tuple(
        write_text(
            folder / f"{date}_samples_{_UNSAFE.sub('__', task)}.jsonl",
            (dump_line(to_lmms_eval_sample(record)) + "\n" for record in records),
        )
        for task, records in by_task.items()
        if records
    )
    # Last, so that whoever finds the results finds everything that belongs to them.
    results_path = write_text(folder / f"{date}_results.json", [dump_document(document)])
    return WrittenResults(document, results_path, samples_paths)


def build_document(
    config: EvaluationConfig,
    tasks: Sequence[Task],
    scores: Sequence[TaskScore],
    records: Mapping[str, Sequence[SampleRecord]],
    manifest: Mapping[str, Any],
    started: datetime,
    finished: datetime,
    batch_sizes: Sequence[int],
    throughput: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The results document: lmms-eval's keys in its order, then those of our own."""
    usages = _usages(tasks, records)
    model_name = _model_name(config)
    document: dict[str, Any] = {
        "results": {score.task: _task_results(task, score) for task, score in zip(tasks, scores, strict=True)},
        "group_subtasks": {task.name: [] for task in tasks},
        "configs": {task.name: task.config.dump() for task in tasks},
        "versions": {task.name: task.version for task in tasks},
        "n-shot": {task.name: task.num_fewshot for task in tasks},
        "higher_is_better": {task.name: dict(task.higher_is_better) for task in tasks},
        "n-samples": {
            task.name: {"original": task.total_documents, "effective": score.samples_asked}
            for task, score in zip(tasks, scores, strict=True)
        },
        "config": _config(config, manifest, batch_sizes),
        "lmms_eval_grpc_version": _version(),
        "date": started.astimezone(UTC).strftime("%Y%m%d_%H%M%S"),
        "throughput": dict(throughput or {}),
        "usage": _usage(config, usages),
        "efficiency": _efficiency(usages),
        "task_hashes": {name: _task_hash(of_task) for name, of_task in records.items() if of_task},
        "model_source": config.model,
        "model_name": model_name,
        "model_name_sanitized": model_folder(config),
        "system_instruction": config.system_instruction,
        "system_instruction_sha": text_digest(config.system_instruction) if config.system_instruction else None,
        "fewshot_as_multiturn": config.fewshot_as_multiturn,
        "start_time": started.timestamp(),
        "end_time": finished.timestamp(),
        "total_evaluation_time_seconds": str((finished - started).total_seconds()),
        "confidence_intervals": {score.task: _intervals(score) for score in scores},
        "sample_counts": {
            score.task: {
                "asked": score.samples_asked,
                "scored": score.samples_scored,
                "errored": score.samples_errored,
            }
            for score in scores
        },
        "manifest": dict(manifest),
    }
    plain: dict[str, Any] = redact(to_plain(document))
    return plain


def model_folder(config: EvaluationConfig) -> str:
    """The folder of a model's results: the last two parts of its path or id, joined by ``__``."""
    parts = [part for part in _model_name(config).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return _UNSAFE.sub("__", "/".join(parts[-2:])) or _UNSAFE.sub("__", config.model)


def _task_results(task: Task, score: TaskScore) -> dict[str, Any]:
    results: dict[str, Any] = {"alias": task.config.task_alias or task.name}
    for metric in score.metrics:
        results[f"{metric.name},{metric.filter}"] = metric.value
        for kind, error in _legacy_errors(metric).items():
            results[f"{metric.name}_{kind},{metric.filter}"] = _NOT_AVAILABLE if error is None else error
    return results


def _legacy_errors(metric: MetricScore) -> dict[str, float | None]:
    """The three keys of lmms-eval. ``stderr_clt`` is given only where the aggregation is a mean, as else it is of
    something other than the value."""
    error, method = metric.standard_error, metric.confidence_method
    return {
        "stderr": error,
        "stderr_clt": error if method == "t" else None,
        "stderr_clustered": error if method in ("t_clustered", "cluster_bootstrap") else None,
    }


def _intervals(score: TaskScore) -> dict[str, Any]:
    return {
        f"{metric.name},{metric.filter}": {
            "lower": metric.confidence_lower,
            "upper": metric.confidence_upper,
            "level": 0.95,
            "method": metric.confidence_method,
            "samples": metric.sample_count,
        }
        for metric in score.metrics
        if metric.confidence_method
    }


def _config(config: EvaluationConfig, manifest: Mapping[str, Any], batch_sizes: Sequence[int]) -> dict[str, Any]:
    python, numpy, torch, fewshot = config.seed
    model = manifest.get("model")
    return {
        "model": config.model,
        "model_args": ",".join(f"{key}={value}" for key, value in redact(config.model_args).items()),
        "model_backend": model.get("backend") if isinstance(model, Mapping) else None,
        "batch_size": "auto" if config.batch_size is None else config.batch_size,
        "batch_sizes": sorted(set(batch_sizes)),
        "device": config.device,
        "use_cache": config.use_cache,
        "limit": config.limit,
        "offset": config.offset,
        "gen_kwargs": dict(config.gen_kwargs),
        "random_seed": python,
        "numpy_seed": numpy,
        "torch_seed": torch,
        "fewshot_seed": fewshot,
        "resolved_cli_args": config,
    }


def _usages(tasks: Sequence[Task], records: Mapping[str, Sequence[SampleRecord]]) -> dict[str, usage.TaskUsage]:
    usages = {}
    for task in tasks:
        of_task = usages[task.name] = usage.TaskUsage()
        for record in records.get(task.name, ()):
            of_task.add(record, task.config.score_key)
    return {name: of_task for name, of_task in usages.items() if of_task.documents}


def _usage(config: EvaluationConfig, usages: Mapping[str, usage.TaskUsage]) -> dict[str, Any]:
    if not usages:
        return {}
    return {
        "total": usage.total(usages.values()).tokens(),
        "by_task": {name: of_task.tokens() for name, of_task in usages.items()},
        "budget_total_tokens": config.max_tokens,
    }


def _efficiency(usages: Mapping[str, usage.TaskUsage]) -> dict[str, Any]:
    if not usages:
        return {}
    return {
        "overall": usage.total(usages.values()).efficiency(),
        "by_task": {name: of_task.efficiency() for name, of_task in usages.items()},
    }


def _task_hash(records: Sequence[SampleRecord]) -> str:
    """SHA-256 over which documents were run, and what was in them."""
    documents = dict.fromkeys((record.doc_id, record.doc_hash) for record in records)
    return hashlib.sha256("\n".join(f"{doc_id} {digest}" for doc_id, digest in documents).encode()).hexdigest()


def _model_name(config: EvaluationConfig) -> str:
    for key in _MODEL_NAME_KEYS:
        if config.model_args.get(key):
            return str(config.model_args[key])
    return config.model


def _free_date(folder: Path, started: datetime) -> str:
    date = started.astimezone(UTC).strftime("%Y%m%d_%H%M%S")
    number, free = 1, date
    while (folder / f"{free}_results.json").exists():
        number += 1
        free = f"{date}-{number}"
    return free


def _version() -> str:
    try:
        return importlib.metadata.version("lmms-eval-grpc")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"

"""The results document and the samples files, in lmms-eval's layout."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from lmms_eval_grpc.engine.api import EvaluationConfig, GroupScore, MetricScore, TaskScore
from lmms_eval_grpc.engine.record import usage
from lmms_eval_grpc.engine.record.atomic import write_text
from lmms_eval_grpc.engine.record.plain_json import dump_document, dump_line, to_plain
from lmms_eval_grpc.engine.record.publication import all_or_none, reserved_date
from lmms_eval_grpc.engine.record.redact import hide_in_json, redact, secret_values
from lmms_eval_grpc.engine.record.samples import SampleRecord, text_digest, to_lmms_eval_sample
from lmms_eval_grpc.engine.record.usage import CachedUsage, TaskUsage
from lmms_eval_grpc.engine.tasks.task import Task

LMMS_EVAL_KEYS = (
    "results",
    "groups",
    "group_subtasks",
    "configs",
    "versions",
    "n-shot",
    "higher_is_better",
    "n-samples",
    "config",
    "git_hash",
    "git_branch",
    "lmms_eval_version",
    "date",
    "throughput",
    "usage",
    "efficiency",
    "task_hashes",
    "model_source",
    "model_name",
    "model_name_sanitized",
    "system_instruction",
    "system_instruction_sha",
    "fewshot_as_multiturn",
    "chat_template",
    "chat_template_sha",
    "start_time",
    "end_time",
    "total_evaluation_time_seconds",
)
"""The keys of lmms-eval's results document, in its order; ``groups`` only where a group has scores."""

_NOT_AVAILABLE = "N/A"
_LEGACY_ERRORS = ("stderr", "stderr_clt", "stderr_clustered")
"""lmms-eval's keys, always there; more is in ``confidence_intervals``."""
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
    records: Mapping[str, Iterable[SampleRecord]],
    manifest: Mapping[str, Any],
    output_dir: Path,
    *,
    started: datetime,
    finished: datetime,
    batch_sizes: Sequence[int] = (),
    throughput: Mapping[str, Any] | None = None,
    groups: Sequence[GroupScore] = (),
    cached: CachedUsage | None = None,
    usages: Mapping[str, TaskUsage] | None = None,
) -> WrittenResults:
    """Writes ``<output_dir>/<model>/<date>_results.json`` and, per task, ``<date>_samples_<task>.jsonl`` beside it.

    ``scores`` are those of ``tasks``, in their order. ``records`` are those of each task that has some, in the order
    of the documents; they are gone through twice. Only such tasks get a samples file. The date is ``started`` in the
    configured time zone, with a number behind it where another evaluation took that name. ``cached`` is what a response
    cache spared; None: there was none. ``usages`` are what each task's responses cost; None: what the records say.

    When it fails, none of the files is left.
    """
    document = build_document(
        config, tasks, scores, records, manifest, started, finished, batch_sizes, throughput, groups, cached, usages
    )
    folder = output_dir / model_folder(config)
    with reserved_date(folder, _date(config, started)) as date, all_or_none() as samples_paths:
        secrets = secrets_of(config)
        for task in tasks:
            if task.name in records:
                path = folder / f"{date}_samples_{safe_name(task.name)}.jsonl"
                lines = (dump_line(to_lmms_eval_sample(record)) for record in records[task.name])
                samples_paths.append(write_text(path, (hide_in_json(line, secrets) + "\n" for line in lines)))
        # Last, so that whoever finds the results finds everything that belongs to them.
        results_path = write_text(folder / f"{date}_results.json", [dump_document(document)])
    return WrittenResults(document, results_path, tuple(samples_paths))


def build_document(
    config: EvaluationConfig,
    tasks: Sequence[Task],
    scores: Sequence[TaskScore],
    records: Mapping[str, Iterable[SampleRecord]],
    manifest: Mapping[str, Any],
    started: datetime,
    finished: datetime,
    batch_sizes: Sequence[int],
    throughput: Mapping[str, Any] | None,
    groups: Sequence[GroupScore] = (),
    cached: CachedUsage | None = None,
    usages: Mapping[str, TaskUsage] | None = None,
) -> dict[str, Any]:
    """The results document: lmms-eval's keys in its order (:data:`LMMS_EVAL_KEYS`), then those of our own."""
    recorded, task_hashes = _sum_up(tasks, records)
    model_name = _model_name(config)
    rows = {group.group: _group_results(group) for group in groups}
    aggregated = {group.group: rows[group.group] for group in groups if group.metrics}
    chat_template = _model_value(manifest, "chat_template")
    document: dict[str, Any] = {
        "results": rows | {score.task: _task_results(task, score) for task, score in zip(tasks, scores, strict=True)},
        **({"groups": aggregated} if aggregated else {}),
        "group_subtasks": {group.group: list(group.members) for group in groups} | {task.name: [] for task in tasks},
        "configs": {task.name: task.config.dump() for task in tasks},
        "versions": {group.group: group.version for group in groups} | {task.name: task.version for task in tasks},
        "n-shot": {task.name: _shots(task) for task in tasks},
        "higher_is_better": {group.group: _directions(group) for group in groups}
        | {task.name: dict(task.higher_is_better) for task in tasks},
        "n-samples": {
            task.name: {
                "original": task.total_documents,
                "effective": score.samples_asked - score.samples_skipped,
            }
            for task, score in zip(tasks, scores, strict=True)
        },
        "config": _config(config, manifest, batch_sizes),
        "git_hash": _git(manifest, "commit"),
        "git_branch": _git(manifest, "branch"),
        "lmms_eval_version": f"lmms-eval-grpc {_version()}",
        "date": _date(config, started),
        "throughput": dict(throughput or {}),
        "usage": _usage(config, recorded if usages is None else usages, scores, cached),
        "efficiency": _efficiency(recorded),
        "task_hashes": task_hashes,
        "model_source": config.model,
        "model_name": model_name,
        "model_name_sanitized": model_folder(config),
        "system_instruction": config.system_instruction,
        "system_instruction_sha": text_digest(config.system_instruction) if config.system_instruction else None,
        "fewshot_as_multiturn": config.fewshot_as_multiturn,
        "chat_template": chat_template,
        "chat_template_sha": _model_value(manifest, "chat_template_digest"),
        "start_time": started.timestamp(),
        "end_time": finished.timestamp(),
        "total_evaluation_time_seconds": str((finished - started).total_seconds()),
        "lmms_eval_grpc_version": _version(),
        "confidence_intervals": {score.task: _intervals(score.metrics) for score in scores}
        | {group: _intervals(score.metrics) for group, score in ((group.group, group) for group in groups)},
        **({"baseline_comparisons": _comparisons(scores)} if config.baseline else {}),
        "sample_counts": {
            score.task: {
                "asked": score.samples_asked,
                "scored": score.samples_scored,
                "errored": score.samples_errored,
                "skipped": score.samples_skipped,
            }
            for score in scores
        },
        "manifest": dict(manifest),
    }
    plain: dict[str, Any] = redact(to_plain(document), secrets_of(config))
    return plain


def secrets_of(config: EvaluationConfig) -> tuple[str, ...]:
    """The secrets that an evaluation was given, wherever they turn up."""
    return secret_values([config.model_args, config.gen_kwargs])


def safe_name(name: str) -> str:
    """``name`` as a part of a file's name: lmms-eval's replacement of what a path must not have."""
    return _UNSAFE.sub("__", name)


def model_folder(config: EvaluationConfig) -> str:
    """The folder of a model's results: the last two parts of its path or id, joined by ``__``."""
    parts = [part for part in _model_name(config).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return safe_name("/".join(parts[-2:])) or safe_name(config.model)


def _shots(task: Task) -> Any:
    """Examples in each prompt; where the engine adds none, those that the task says are in its own text."""
    metadata = task.config.metadata if isinstance(task.config.metadata, Mapping) else {}
    return task.num_fewshot or metadata.get("num_fewshot") or 0


def _task_results(task: Task, score: TaskScore) -> dict[str, Any]:
    return {
        "alias": task.config.task_alias or task.name,
        **_metric_results(score.metrics, _LEGACY_ERRORS),
        **_paired(score),
    }


def _paired(score: TaskScore) -> dict[str, Any]:
    """lmms-eval's keys for the comparison with a baseline, of the first metric that has one; ``paired_metric`` says
    which. All in the unit of the samples' scores. All metrics are in ``baseline_comparisons``."""
    metric = next((metric for metric in score.metrics if metric.baseline is not None), None)
    if metric is None or metric.baseline is None:
        return {}
    found = metric.baseline
    return {
        "paired_baseline": found.baseline,
        "paired_baseline_score": found.baseline_score,
        "paired_ci_lower": _NOT_AVAILABLE if found.confidence_lower is None else found.confidence_lower,
        "paired_ci_upper": _NOT_AVAILABLE if found.confidence_upper is None else found.confidence_upper,
        "paired_pvalue": _NOT_AVAILABLE if found.t_p_value is None else found.t_p_value,
        "paired_score": found.score,
        "paired_metric": f"{metric.name},{metric.filter}",
    }


def _comparisons(scores: Sequence[TaskScore]) -> dict[str, Any]:
    return {
        score.task: {f"{metric.name},{metric.filter}": metric.baseline for metric in score.metrics if metric.baseline}
        for score in scores
    }


def _group_results(group: GroupScore) -> dict[str, Any]:
    """A group's row; one without metrics is a heading, which lmms-eval marks by a blank."""
    if not group.metrics:
        return {"alias": group.alias, " ": " "}
    return {"alias": group.alias, **_metric_results(group.metrics, _LEGACY_ERRORS[:1]), "samples": group.sample_count}


def _metric_results(metrics: Sequence[MetricScore], errors: Sequence[str]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for metric in metrics:
        results[f"{metric.name},{metric.filter}"] = metric.value
        for kind in errors:
            results[f"{metric.name}_{kind},{metric.filter}"] = metric.legacy_errors.get(kind, _NOT_AVAILABLE)
    return results


def _directions(group: GroupScore) -> dict[str, bool]:
    """By metric; one about whose direction the group's tasks disagree is absent."""
    return {metric.name: metric.higher_is_better for metric in group.metrics if metric.higher_is_better is not None}


def _intervals(metrics: Sequence[MetricScore]) -> dict[str, Any]:
    return {
        f"{metric.name},{metric.filter}": {
            "lower": metric.confidence_lower,
            "upper": metric.confidence_upper,
            "level": 0.95,
            "method": metric.confidence_method,
            "standard_error": metric.standard_error,
            "samples": metric.sample_count,
        }
        for metric in metrics
        if metric.confidence_method
    }


def _model_value(manifest: Mapping[str, Any], key: str) -> Any:
    model = manifest.get("model")
    return model.get(key) if isinstance(model, Mapping) else None


def _git(manifest: Mapping[str, Any], key: str) -> Any:
    code = manifest.get("code")
    return code.get(key) if isinstance(code, Mapping) else None


def _config(config: EvaluationConfig, manifest: Mapping[str, Any], batch_sizes: Sequence[int]) -> dict[str, Any]:
    python, numpy, torch, fewshot = config.seed
    return {
        "model": config.model,
        "model_args": ",".join(f"{key}={value}" for key, value in redact(config.model_args).items()),
        "model_backend": _model_value(manifest, "backend"),
        "batch_size": "auto" if config.batch_size is None else config.batch_size,
        "batch_sizes": sorted(set(batch_sizes)),
        "device": config.device,
        "use_cache": config.use_cache,
        "limit": config.limit,
        "offset": config.offset,
        "bootstrap_iters": config.bootstrap_iters,
        "gen_kwargs": dict(config.gen_kwargs),
        "random_seed": python,
        "numpy_seed": numpy,
        "torch_seed": torch,
        "fewshot_seed": fewshot,
        "resolved_cli_args": config if config.resolved_cli_args is None else config.resolved_cli_args,
    }


def _sum_up(
    tasks: Sequence[Task], records: Mapping[str, Iterable[SampleRecord]]
) -> tuple[dict[str, TaskUsage], dict[str, str]]:
    """Of each task with records: what they cost, and a SHA-256 over which documents were run, and what was in them."""
    usages, hashes = {}, {}
    for task in tasks:
        if task.name in records:
            usage, documents = TaskUsage(), dict[str, None]()  # without repetition, in their order
            for record in records[task.name]:
                usage.add(record, task.config.score_key)
                documents[f"{record.doc_id} {record.doc_hash}"] = None
            usages[task.name] = usage
            hashes[task.name] = hashlib.sha256("\n".join(documents).encode()).hexdigest()
    return usages, hashes


def _usage(
    config: EvaluationConfig,
    usages: Mapping[str, TaskUsage],
    scores: Sequence[TaskScore],
    cached: CachedUsage | None,
) -> dict[str, Any]:
    if not usages:
        return {}
    by_source = usage.by_source(usages.values(), cached)
    return {
        "total": {key: sum(source[key] for source in by_source.values()) for key in by_source["model"]},
        "by_task": {name: of_task.tokens() for name, of_task in usages.items()},
        "by_source": by_source,
        "budget_exceeded": any(score.samples_skipped for score in scores),
        "budget_total_tokens": config.max_tokens,
    }


def _efficiency(usages: Mapping[str, TaskUsage]) -> dict[str, Any]:
    if not usages:
        return {}
    return {
        "overall": usage.total(usages.values()).efficiency(),
        "by_task": {name: of_task.efficiency() for name, of_task in usages.items()},
    }


def _model_name(config: EvaluationConfig) -> str:
    for key in _MODEL_NAME_KEYS:
        if config.model_args.get(key):
            return str(config.model_args[key])
    return config.model


def _date(config: EvaluationConfig, started: datetime) -> str:
    return started.astimezone(zoneinfo.ZoneInfo(config.timezone)).strftime("%Y%m%d_%H%M%S")


def _version() -> str:
    try:
        return importlib.metadata.version("lmms-eval-grpc")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"

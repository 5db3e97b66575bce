"""Between the service's words for a job (``jobs``) and the engine's (``engine.api``). Light: imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine import api as engine
from lmms_eval_grpc.engine.api import (
    EvaluationConfig,
    EvaluationError,
    EvaluationOutcome,
    GroupScore,
    MetricScore,
    ProgressReport,
    TaskScore,
)
from lmms_eval_grpc.engine.exhaustion import shortage
from lmms_eval_grpc.engine.record.plain_json import to_plain
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.results import (
    BaselineComparison,
    EvaluationResult,
    GroupResult,
    JobError,
    JobErrorCode,
    JobStage,
    Metric,
    Progress,
    TaskResult,
    Verdict,
)
from lmms_eval_grpc.jobs.spec import EvaluationSpec, MergeMode

MAX_MESSAGE = 4000
"""Longest error message that leaves a worker, in characters; the log has all of it."""

INVALID_REASONS = frozenset(
    {
        "AUTHENTICATION_FAILED",
        "BASELINE_UNREADABLE",
        "DATASET_UNAVAILABLE",
        "DOCUMENTS_DIFFER",
        "INVALID_ENVIRONMENT",
        "INVALID_GENERATION_ARGS",
        "INVALID_LIMIT",
        "INVALID_MODEL_ARGS",
        "INVALID_REASONING_TAGS",
        "MISSING_PACKAGES",
        "MODEL_LOAD_FAILED",
        "NOTHING_TO_COMPARE",
        "NAMES_DO_NOT_MATCH",
        "NO_DOCUMENTS",
        "NO_EMA_WEIGHTS",
        "NO_MODEL_CONFIG",
        "NOT_SHARDED",
        "OUTPUT_BUSY",
        "OUTPUT_EXISTS",
        "OUTPUT_NOT_WRITABLE",
        "PATH_NOT_ALLOWED",
        "SHARDS_UNREADABLE",
        "TASK_LOAD_FAILED",
        "UNKNOWN_MODEL",
        "UNKNOWN_SERVED_MODEL",
        "UNKNOWN_TASK",
        "UNSUPPORTED_DTYPE",
        "UNSUPPORTED_TASK",
    }
)
"""The engine's reasons that lie in the job as it was asked for: trying again will not help."""


def to_config(
    spec: EvaluationSpec, *, include_paths: Sequence[Path], device: str, job_dir: Path | None = None
) -> EvaluationConfig:
    """What the engine is to run.

    Args:
        include_paths: folders with task YAML files that the server was started with; those of the job come after them.
        device: torch device string, as the worker sees it.
        job_dir: where results go when the job names no output folder; None leaves that to the engine.
    """
    default_output = None if job_dir is None else job_dir / "results"
    return EvaluationConfig(
        model=spec.model,
        tasks=spec.tasks,
        model_args=spec.model_args,
        include_paths=(*include_paths, *map(Path, spec.include_path)),
        num_fewshot=spec.num_fewshot,
        batch_size=spec.batch_size,
        max_batch_size=spec.max_batch_size,
        device=device,
        num_gpus=spec.num_gpus,
        limit=spec.limit_fraction if spec.limit_count is None else spec.limit_count,
        offset=spec.offset,
        gen_kwargs=spec.gen_kwargs,
        log_samples=spec.log_samples,
        predict_only=spec.predict_only,
        output_dir=Path(spec.output_dir) if spec.output_dir else default_output,
        seed=(spec.seeds.python, spec.seeds.numpy, spec.seeds.torch, spec.seeds.fewshot),
        repeats=spec.repeats,
        system_instruction=spec.system_instruction or None,
        apply_chat_template=spec.apply_chat_template,
        fewshot_as_multiturn=spec.fewshot_as_multiturn,
        reasoning_tags=spec.reasoning_tags or None,
        force_simple=spec.force_simple,
        trust_remote_code=spec.trust_remote_code,
        use_cache=Path(spec.use_cache) if spec.use_cache else None,
        agentic_trace_mode=spec.agentic_trace_mode,
        baseline=spec.baseline or None,
        max_tokens=spec.max_tokens or None,
        max_error_share=spec.max_error_share,
        stall_timeout=spec.stall_timeout,
        process_with_media=spec.process_with_media,
        bootstrap_iters=spec.bootstrap_iters,
        override_tasks=spec.override_tasks,
        timezone=spec.timezone,
        compat=frozenset(spec.compat),
        merge=spec.merge is MergeMode.AUTO,
    )


def to_progress(report: ProgressReport) -> Progress:
    """``report`` in the service's words. The time left is the scheduler's to tell."""
    return Progress(
        stage=JobStage(report.stage.value),
        task=report.task,
        samples_done=report.samples_done,
        samples_total=report.samples_total,
        task_samples_done=report.task_samples_done,
        task_samples_total=report.task_samples_total,
        samples_resumed=report.samples_resumed,
        samples_errored=report.samples_errored,
        samples_per_second=report.samples_per_second,
        batch_size=report.batch_size,
        output_tokens=report.output_tokens,
        samples_cached=report.samples_cached,
        bytes_done=report.bytes_done,
        bytes_total=report.bytes_total,
    )


def to_task_result(score: TaskScore) -> TaskResult:
    """The outcome of one task."""
    return TaskResult(
        task=score.task,
        version=score.version,
        metrics=tuple(map(_to_metric, score.metrics)),
        samples_asked=score.samples_asked,
        samples_scored=score.samples_scored,
        samples_errored=score.samples_errored,
        elapsed_seconds=score.seconds,
        samples_skipped=score.samples_skipped,
    )


def to_result(outcome: EvaluationOutcome) -> EvaluationResult:
    """The outcome of the whole job. Non-finite numbers in the documents become null, which every language can read."""
    return EvaluationResult(
        task_results=tuple(map(to_task_result, outcome.tasks)),
        # A group without metrics is a heading and no result.
        group_results=tuple(to_group_result(group) for group in outcome.groups if group.metrics),
        results_json=_dump(outcome.results_document),
        manifest_json=_dump(outcome.manifest),
        results_path="" if outcome.results_path is None else str(outcome.results_path),
        samples_paths=tuple(map(str, outcome.samples_paths)),
        stage_seconds={str(stage): float(seconds) for stage, seconds in outcome.stage_seconds.items()},
        samples_per_second=outcome.samples_per_second,
        output_tokens_per_second=outcome.output_tokens_per_second,
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
    )


def to_group_result(score: GroupScore) -> GroupResult:
    """The outcome of one group."""
    return GroupResult(score.group, score.version, tuple(map(_to_metric, score.metrics)), score.members)


def to_json(value: object) -> str:
    """``value`` as JSON that a message can carry: half a surrogate pair, which UTF-8 cannot say, becomes ``?``. Models
    bring those, and so do the messages of errors about what models said."""
    text = codec.encode(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def to_error(error: EvaluationError) -> JobError:
    """What the engine says about an evaluation that cannot go on."""
    if (short := _shortage(error, error.message)) is not None:
        return short
    code = JobErrorCode.INVALID if error.reason in INVALID_REASONS else JobErrorCode.EVALUATION
    return JobError(code, error.reason, _shorten(error.message))


def to_unexpected_error(error: BaseException) -> JobError:
    """An exception that nobody foresaw; its traceback is for the log."""
    text = str(error)
    kind = type(error).__name__
    message = f"{kind}: {text}" if text else kind
    if (short := _shortage(error, message)) is not None:
        return short
    return JobError(JobErrorCode.EVALUATION, "UNEXPECTED_ERROR", _shorten(message), {"exception": kind})


def _shortage(error: BaseException, message: str) -> JobError | None:
    found = shortage(error, again="submit the job again")
    if found is None:
        return None
    code = JobErrorCode.OUT_OF_MEMORY if found.reason == "OUT_OF_MEMORY" else JobErrorCode.INTERNAL
    return JobError(code, found.reason, f"{_shorten(message)}; {found.remedy}")


def _to_metric(score: MetricScore) -> Metric:
    return Metric(
        name=score.name,
        filter=score.filter,
        value=score.value,
        standard_error=score.standard_error,
        confidence_lower=score.confidence_lower,
        confidence_upper=score.confidence_upper,
        confidence_method=score.confidence_method,
        higher_is_better=score.higher_is_better,
        sample_count=score.sample_count,
        baseline=None if score.baseline is None else _to_comparison(score.baseline),
    )


def _to_comparison(found: engine.BaselineComparison) -> BaselineComparison:
    return BaselineComparison(
        baseline=found.baseline,
        documents=found.documents,
        score=found.score,
        baseline_score=found.baseline_score,
        difference=found.difference,
        verdict=Verdict(found.verdict),
        confidence_lower=found.confidence_lower,
        confidence_upper=found.confidence_upper,
        confidence_method=found.confidence_method,
        p_value=found.p_value,
        adjusted_p_value=found.adjusted_p_value,
        method=found.method,
        minimum_detectable_effect=found.minimum_detectable_effect,
    )


def _dump(document: Mapping[str, Any]) -> str:
    return json.dumps(to_plain(document), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _shorten(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}… (the log has all of it)"

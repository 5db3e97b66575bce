"""Jobs, their events, results and errors as public messages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence

from lmms_eval_grpc.jobs.errors import JobUnreadable
from lmms_eval_grpc.jobs.events import JobEvent, StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import (
    BaselineComparison,
    EvaluationResult,
    GroupResult,
    JobError,
    JobStage,
    MergeResult,
    Metric,
    Progress,
    TaskResult,
    Verdict,
)
from lmms_eval_grpc.jobs.spec import JobKind
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.server.convert_spec import ERROR_CODES, write_spec
from lmms_eval_grpc.server.convert_values import clean, write_duration, write_time
from lmms_eval_grpc.v1 import job_pb2

MAX_RESULTS_JSON_BYTES = 2 * 1024 * 1024
"""A larger results document is left out of responses; it is still in its file."""
MAX_JOB_BYTES = 3_750_000
"""Every client takes responses of up to 4 MiB without being told to."""

_LOG = logging.getLogger(__name__)

STATES = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in JobState}
_KINDS = {kind: job_pb2.JobKind.Value(f"JOB_KIND_{kind.name}") for kind in JobKind}
_STAGES = {stage: job_pb2.JobStage.Value(f"JOB_STAGE_{stage.name}") for stage in JobStage}
_VERDICTS = {verdict: job_pb2.BaselineComparison.Verdict.Value(f"VERDICT_{verdict.name}") for verdict in Verdict}


def shows_results(view: job_pb2.JobView.ValueType, default: bool) -> bool:
    """Whether a view carries results; ``default`` is what the method does when nothing is asked for."""
    return default if view == job_pb2.JOB_VIEW_UNSPECIFIED else view == job_pb2.JOB_VIEW_FULL


def write_job(job: Job, *, full: bool, queue_position: int | None = None) -> job_pb2.Job:
    """The job as a message below :data:`MAX_JOB_BYTES`.

    ``queue_position`` is left out unless the job is queued, and results unless ``full``.

    Raises:
        JobUnreadable: the job says what no message can, such as a number of more bits than its field has.
    """
    with readable(job.job_id):
        return _write_job(job, full, queue_position)


@contextlib.contextmanager
def readable(job_id: str) -> Iterator[None]:
    """Raises JobUnreadable where what is kept of the job makes no message: its row is damaged."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        _LOG.error("what is kept of job %s makes no message", job_id, exc_info=error)
        raise JobUnreadable(job_id) from error


def _write_job(job: Job, full: bool, queue_position: int | None) -> job_pb2.Job:
    message = job_pb2.Job(
        job_id=job.job_id,
        kind=_KINDS[job.kind],
        state=STATES[job.state],
        sequence=job.sequence,
        labels=job.labels,
        priority=job.priority,
        queue_position=queue_position if job.state is JobState.QUEUED else None,
        attempt=job.attempt,
        progress=None if job.progress is None else write_progress(job.progress),
        create_time=write_time(job.create_time),
        start_time=None if job.start_time is None else write_time(job.start_time),
        end_time=None if job.end_time is None else write_time(job.end_time),
        error=None if job.error is None else write_error(job.error),
        devices=job.devices,
        cancel_reason=job.cancel_reason,
        request_id=job.request_id,
        owner=job.owner,
        **write_spec(job.spec),  # type: ignore[arg-type]
    )
    if full:
        message.task_results.extend(write_task_results(job.task_results))
        if isinstance(job.result, EvaluationResult):
            message.evaluation_result.CopyFrom(write_evaluation_result(job.result))
        elif isinstance(job.result, MergeResult):
            message.merge_result.CopyFrom(
                job_pb2.MergeResult(
                    output_path=job.result.output_path,
                    size_bytes=job.result.size_bytes,
                    tensor_count=job.result.tensor_count,
                    file_count=job.result.file_count,
                )
            )
        _shrink(message)
    return message


def _shrink(job: job_pb2.Job) -> None:
    """Leaves out of the result what is largest and can be had elsewhere, until the job fits."""
    if job.ByteSize() <= MAX_JOB_BYTES:
        return
    result = job.evaluation_result
    if result.results_json:
        result.results_json, result.results_json_omitted = "", True
    if job.ByteSize() > MAX_JOB_BYTES:
        result.manifest_json = ""
    if job.ByteSize() > MAX_JOB_BYTES:
        del result.task_results[:]  # The job itself has them too.


def write_event(event: JobEvent) -> job_pb2.JobEvent:
    """An entry of a job's log."""
    message = job_pb2.JobEvent(sequence=event.sequence, event_time=write_time(event.time))
    body = event.body
    if isinstance(body, StateChange):
        message.state_change.CopyFrom(
            job_pb2.StateChange(
                previous_state=write_state(body.previous),
                state=STATES[body.state],
                attempt=body.attempt,
                reason=clean(body.reason),
                error=None if body.error is None else write_error(body.error),
            )
        )
    elif isinstance(body, TaskResult):
        message.task_result.CopyFrom(write_task_result(body))
    else:
        message.progress.CopyFrom(write_progress(body))
    return message


def write_state(state: JobState | None) -> job_pb2.JobState.ValueType:
    """A state, or UNSPECIFIED for none."""
    return job_pb2.JOB_STATE_UNSPECIFIED if state is None else STATES[state]


def write_progress(progress: Progress) -> job_pb2.Progress:
    """How far a job is."""
    remaining = progress.remaining_seconds
    return job_pb2.Progress(
        stage=_STAGES[progress.stage],
        task=progress.task,
        samples_done=progress.samples_done,
        samples_total=progress.samples_total,
        task_samples_done=progress.task_samples_done,
        task_samples_total=progress.task_samples_total,
        samples_resumed=progress.samples_resumed,
        samples_errored=progress.samples_errored,
        samples_per_second=progress.samples_per_second,
        remaining=None if remaining is None else write_duration(remaining),
        batch_size=progress.batch_size,
        output_tokens=progress.output_tokens,
        samples_cached=progress.samples_cached,
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
    )


def write_error(error: JobError) -> job_pb2.JobError:
    """Why a job failed."""
    return job_pb2.JobError(
        code=ERROR_CODES[error.code],
        reason=clean(error.reason),
        message=clean(error.message),
        details={clean(key): clean(value) for key, value in error.details.items()},
        log_tail=clean(error.log_tail),
    )


def write_task_results(results: Iterable[TaskResult]) -> list[job_pb2.TaskResult]:
    """The outcomes of some tasks."""
    return [write_task_result(result) for result in results]


def write_task_result(result: TaskResult) -> job_pb2.TaskResult:
    """The outcome of one task."""
    return job_pb2.TaskResult(
        task=result.task,
        version=result.version,
        metrics=_write_metrics(result.metrics),
        samples=job_pb2.SampleCounts(
            asked=result.samples_asked,
            scored=result.samples_scored,
            errored=result.samples_errored,
            skipped=result.samples_skipped,
        ),
        elapsed=write_duration(result.elapsed_seconds),
    )


def write_evaluation_result(result: EvaluationResult) -> job_pb2.EvaluationResult:
    """What an evaluation produced; the results document only when it is small enough."""
    omitted = len(result.results_json.encode()) > MAX_RESULTS_JSON_BYTES
    return job_pb2.EvaluationResult(
        task_results=write_task_results(result.task_results),
        group_results=[_write_group(group) for group in result.group_results],
        results_json="" if omitted else result.results_json,
        results_json_omitted=omitted,
        manifest_json=result.manifest_json,
        throughput=job_pb2.Throughput(
            samples_per_second=result.samples_per_second,
            output_tokens_per_second=result.output_tokens_per_second,
            stage_elapsed={stage: write_duration(seconds) for stage, seconds in result.stage_seconds.items()},
        ),
        usage=job_pb2.Usage(input_tokens=result.input_tokens, output_tokens=result.output_tokens),
        results_path=result.results_path,
        samples_paths=result.samples_paths,
    )


def _write_group(group: GroupResult) -> job_pb2.GroupResult:
    return job_pb2.GroupResult(
        group=group.group, version=group.version, metrics=_write_metrics(group.metrics), members=group.members
    )


def _write_metrics(metrics: Sequence[Metric]) -> list[job_pb2.Metric]:
    return [_write_metric(metric) for metric in metrics]


def _write_metric(metric: Metric) -> job_pb2.Metric:
    message = job_pb2.Metric(
        name=metric.name,
        filter=metric.filter,
        value=metric.value,
        standard_error=metric.standard_error,
        higher_is_better=metric.higher_is_better,
        sample_count=metric.sample_count,
    )
    if metric.confidence_lower is not None and metric.confidence_upper is not None:
        message.confidence_interval.CopyFrom(
            job_pb2.ConfidenceInterval(
                lower=metric.confidence_lower,
                upper=metric.confidence_upper,
                level=metric.confidence_level,
                method=metric.confidence_method,
            )
        )
    if metric.baseline is not None:
        message.baseline.CopyFrom(_write_comparison(metric.baseline))
    return message


def _write_comparison(found: BaselineComparison) -> job_pb2.BaselineComparison:
    message = job_pb2.BaselineComparison(
        baseline=found.baseline,
        documents=found.documents,
        score=found.score,
        baseline_score=found.baseline_score,
        difference=found.difference,
        p_value=found.p_value,
        adjusted_p_value=found.adjusted_p_value,
        method=found.method,
        verdict=_VERDICTS[found.verdict],
        minimum_detectable_effect=found.minimum_detectable_effect,
    )
    if found.confidence_lower is not None and found.confidence_upper is not None:
        message.confidence_interval.CopyFrom(
            job_pb2.ConfidenceInterval(
                lower=found.confidence_lower,
                upper=found.confidence_upper,
                level=found.confidence_level,
                method=found.confidence_method,
            )
        )
    return message

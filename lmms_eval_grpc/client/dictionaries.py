"""Turns the service's messages into the dictionaries that lmms-eval's client returns, plus what is useful beside."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from lmms_eval_grpc.client.arguments import from_json_value
from lmms_eval_grpc.client.rendering import JobDocument, ResultDocument
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import job_pb2 as messages

SERVING = 1
"""`grpc.health.v1.HealthCheckResponse.SERVING`."""
_ENDED = (messages.JOB_STATE_COMPLETED, messages.JOB_STATE_FAILED, messages.JOB_STATE_CANCELLED)


def state_name(state: int) -> str:
    """lmms-eval's word for a state: "queued", "running", "completed", "failed", "cancelled"; also "cancelling".

    A state that this client is too old to know is "unknown".
    """
    return _word(messages.JobState, state, "JOB_STATE_")


def has_ended(state: int) -> bool:
    """Whether a job in this state stays in it. A state that this client does not know has not ended."""
    return state in _ENDED


def health(status: int, snapshot: service.QueueSnapshot, now: datetime) -> dict[str, Any]:
    """What `health` returns: status ("healthy" while jobs are accepted), timestamp, queue_size."""
    return {
        "status": "healthy" if status == SERVING else "not serving",
        "timestamp": now.isoformat(),
        "queue_size": len(snapshot.queued_job_ids),
    }


def submission(job: messages.Job | None) -> dict[str, Any]:
    """What `evaluate` returns: job_id, status, position_in_queue, message. None: only the check was asked for."""
    if job is None:
        message = "The request is valid; nothing was queued."
        return {"job_id": None, "status": "valid", "position_in_queue": None, "message": message}
    position = job.queue_position if job.HasField("queue_position") else 0
    state = state_name(job.state)
    message = f"Job {job.job_id} is {state}" + (f" at position {position}." if state == "queued" else ".")
    return {"job_id": job.job_id, "status": state, "position_in_queue": position, "message": message}


def cancellation(job: messages.Job) -> dict[str, Any]:
    """What `cancel_job` returns: message, job_id, status."""
    state = state_name(job.state)
    told = {
        "cancelled": f"Job {job.job_id} is cancelled.",
        "cancelling": f"Job {job.job_id} is being cancelled: its worker is told to stop.",
    }
    message = told.get(state, f"Job {job.job_id} had already {state}.")
    return {"message": message, "job_id": job.job_id, "status": state}


def merge(job: dict[str, Any]) -> dict[str, Any]:
    """What `merge_checkpoint` returns of a merge that was waited for: success, message, merged_path, job_id."""
    succeeded = job["status"] == "completed"
    return {
        "success": succeeded,
        "message": "The checkpoint is merged." if succeeded else f"The merge was {job['status']}.",
        "merged_path": job["result"]["merged_path"] if succeeded else None,
        "job_id": job["job_id"],
    }


def queue(snapshot: service.QueueSnapshot) -> dict[str, Any]:
    """What `get_queue_status` returns: lmms-eval's keys, then ours."""
    running = list(snapshot.running_job_ids)
    return {
        "queue_size": len(snapshot.queued_job_ids),
        "running_job": running[0] if running else None,
        "queued_jobs": list(snapshot.queued_job_ids),
        "completed_jobs": snapshot.completed_count,
        "failed_jobs": snapshot.failed_count,
        "cancelled_jobs": snapshot.cancelled_count,
        "running_jobs": running,
        "accepting": snapshot.accepting,
        "capacity": snapshot.capacity,
        "slots": [
            {"index": s.index, "device": s.device, "device_name": s.device_name, "job_id": s.job_id or None}
            for s in snapshot.slots
        ],
        "revision": snapshot.revision,
        "paused": snapshot.paused,
        "pause_reason": snapshot.pause_reason,
        "draining": snapshot.draining,
        "trouble": snapshot.trouble,
    }


def job(message: messages.Job) -> JobDocument:
    """What `get_job` returns: lmms-eval's keys, then ours."""
    error = message.error if message.HasField("error") else None
    told = {
        "job_id": message.job_id,
        "status": state_name(message.state),
        "created_at": _time(message, "create_time"),
        "started_at": _time(message, "start_time"),
        "completed_at": _time(message, "end_time"),
        "request": _merge_request(message.merge) if message.HasField("merge") else _request(message.evaluation),
        "result": _result(message),
        "error": _error_text(error) if error else None,
        "position_in_queue": message.queue_position if message.HasField("queue_position") else None,
        "error_info": _error(error) if error else None,
        "kind": "merge" if message.kind == messages.JOB_KIND_MERGE else "evaluation",
        "labels": dict(message.labels),
        "priority": message.priority,
        "attempt": message.attempt,
        "devices": list(message.devices),
        "progress": _progress(message.progress) if message.HasField("progress") else None,
        "task_results": [task_result(result) for result in message.task_results],
        "cancel_reason": message.cancel_reason or None,
        "request_id": message.request_id,
        "owner": message.owner or None,
    }
    return JobDocument(told)


def task_result(result: messages.TaskResult) -> dict[str, Any]:
    """One task's outcome."""
    return {
        "task": result.task,
        "version": result.version,
        "metrics": [_metric(metric) for metric in result.metrics],
        "samples": {
            "asked": result.samples.asked,
            "scored": result.samples.scored,
            "errored": result.samples.errored,
            "skipped": result.samples.skipped,
        },
        "elapsed_seconds": _seconds(result.elapsed),
    }


def sample(record: messages.SampleRecord) -> dict[str, Any]:
    """One per-sample record."""
    return {
        "task": record.task,
        "doc_id": record.doc_id,
        "filter": record.filter,
        "outcome": _word(messages.SampleOutcome, record.outcome, "SAMPLE_OUTCOME_"),
        "prompt": record.prompt,
        "target": record.target,
        "responses": list(record.responses),
        "filtered_responses": list(record.filtered_responses),
        "scores": json.loads(record.scores_json) if record.scores_json else dict(record.scores),
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "error": record.error or None,
        "doc_hash": record.doc_hash,
    }


def _request(spec: messages.EvaluationSpec) -> dict[str, Any]:
    """Arguments of `evaluate` that ask for the same: those of lmms-eval always, the others where they were set."""
    basic = {
        "model": spec.model,
        "tasks": list(spec.tasks),
        "model_args": from_json_value(MessageToDict(spec.model_args)) if spec.HasField("model_args") else None,
        "num_fewshot": spec.num_fewshot if spec.HasField("num_fewshot") else None,
        "batch_size": _batch_size(spec),
        "device": spec.device or None,
        "limit": _limit(spec),
        "gen_kwargs": from_json_value(MessageToDict(spec.gen_kwargs)) if spec.HasField("gen_kwargs") else None,
        "log_samples": spec.log_samples if spec.HasField("log_samples") else True,
        "predict_only": spec.predict_only,
        "num_gpus": spec.num_gpus or 1,
        "output_dir": spec.output_dir or None,
    }
    more: dict[str, Any] = {}
    for field, value in spec.ListFields():
        if field.name in basic:
            continue
        if field.name == "seeds":
            parts = ("python", "numpy", "torch", "fewshot")
            more["seed"] = [getattr(value, part) if value.HasField(part) else None for part in parts]
        elif field.name in ("run_timeout", "stall_timeout"):
            more[field.name] = _seconds(value)
        elif field.name == "retry_policy":
            more["retry_policy"] = _retry_policy(value)
        elif field.name == "merge":
            more["merge"] = _word(messages.MergeMode, value, "MERGE_MODE_")
        elif field.name in ("include_path", "compat", "track"):
            more[field.name] = list(value)
        else:
            more[field.name] = value
    return basic | more


def _retry_policy(policy: messages.RetryPolicy) -> dict[str, Any]:
    codes = [messages.JobErrorCode.Name(code).removeprefix("JOB_ERROR_CODE_").lower() for code in policy.retry_on]
    return {"max_attempts": policy.max_attempts, "retry_on": codes}


def _batch_size(spec: messages.EvaluationSpec) -> int | str | None:
    match spec.batch_size.WhichOneof("size"):
        case "fixed":
            return spec.batch_size.fixed
        case "automatic":
            return "auto"
    return None


def _limit(spec: messages.EvaluationSpec) -> int | float | None:
    match spec.limit.WhichOneof("limit"):
        case "count":
            return spec.limit.count
        case "fraction":
            return spec.limit.fraction
    return None


def _merge_request(spec: messages.MergeSpec) -> dict[str, Any]:
    ema = spec.checkpoint_kind == messages.CHECKPOINT_KIND_EMA
    return {
        "checkpoint_path": spec.checkpoint_path,
        "output_path": spec.output_path or None,
        "checkpoint_type": "ema" if ema else "regular",
        "config_path": spec.config_path or None,
        "max_shard_bytes": spec.max_shard_bytes or None,
    }


def _result(message: messages.Job) -> dict[str, Any] | None:
    match message.WhichOneof("result"):
        case "evaluation_result":
            return evaluation_result(message.evaluation_result)
        case "merge_result":
            merged = message.merge_result
            return {
                "merged_path": merged.output_path,
                "size_bytes": merged.size_bytes,
                "tensor_count": merged.tensor_count,
                "file_count": merged.file_count,
            }
    return None


def evaluation_result(result: messages.EvaluationResult) -> ResultDocument:
    """The results document in lmms-eval's layout; what the service knows beside it is under "service".

    A document too large for a response is at `results_path` on the server; its "results" are made from the metrics.
    """
    document: dict[str, Any] = json.loads(result.results_json) if result.results_json else _short_document(result)
    document["service"] = {
        "task_results": [task_result(item) for item in result.task_results],
        "group_results": [
            {
                "group": item.group,
                "version": item.version,
                "metrics": [_metric(metric) for metric in item.metrics],
                "members": list(item.members),
            }
            for item in result.group_results
        ],
        "results_json_omitted": result.results_json_omitted,
        "results_path": result.results_path or None,
        "samples_paths": list(result.samples_paths),
        "manifest": json.loads(result.manifest_json) if result.manifest_json else None,
        "throughput": {
            "samples_per_second": result.throughput.samples_per_second,
            "output_tokens_per_second": result.throughput.output_tokens_per_second,
            "stage_seconds": {k: _seconds(v) for k, v in sorted(result.throughput.stage_elapsed.items())},
        },
        "usage": {"input_tokens": result.usage.input_tokens, "output_tokens": result.usage.output_tokens},
    }
    return ResultDocument(document)


def _short_document(result: messages.EvaluationResult) -> dict[str, Any]:
    groups = {item.group: _named_metrics(item.group, item.metrics) for item in result.group_results}
    tasks = {item.task: _named_metrics(item.task, item.metrics) for item in result.task_results}
    versions = {item.task: item.version for item in result.task_results}
    return {"results": tasks | groups, **({"groups": groups} if groups else {}), "versions": versions}


def _named_metrics(alias: str, metrics: Iterable[messages.Metric]) -> dict[str, Any]:
    named: dict[str, Any] = {"alias": alias}
    for metric in metrics:
        named[f"{metric.name},{metric.filter}"] = metric.value
        error = metric.standard_error if metric.HasField("standard_error") else "N/A"
        named[f"{metric.name}_stderr,{metric.filter}"] = error
    return named


def _metric(metric: messages.Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "filter": metric.filter,
        "value": metric.value,
        "standard_error": metric.standard_error if metric.HasField("standard_error") else None,
        "confidence_interval": _interval(metric),
        "higher_is_better": metric.higher_is_better if metric.HasField("higher_is_better") else None,
        "sample_count": metric.sample_count,
        "baseline": _comparison(metric.baseline) if metric.HasField("baseline") else None,
    }


def _comparison(found: messages.BaselineComparison) -> dict[str, Any]:
    return {
        "baseline": found.baseline,
        "documents": found.documents,
        "score": found.score,
        "baseline_score": found.baseline_score,
        "difference": found.difference,
        "confidence_interval": _interval(found),
        "p_value": found.p_value if found.HasField("p_value") else None,
        "adjusted_p_value": found.adjusted_p_value if found.HasField("adjusted_p_value") else None,
        "method": found.method or None,
        "verdict": _word(messages.BaselineComparison.Verdict, found.verdict, "VERDICT_"),
        "minimum_detectable_effect": (
            found.minimum_detectable_effect if found.HasField("minimum_detectable_effect") else None
        ),
    }


def _interval(message: messages.Metric | messages.BaselineComparison) -> dict[str, Any] | None:
    if not message.HasField("confidence_interval"):
        return None
    interval = message.confidence_interval
    return {"lower": interval.lower, "upper": interval.upper, "level": interval.level, "method": interval.method}


def _progress(progress: messages.Progress) -> dict[str, Any]:
    return {
        "stage": _word(messages.JobStage, progress.stage, "JOB_STAGE_"),
        "task": progress.task or None,
        "samples_done": progress.samples_done,
        "samples_total": progress.samples_total,
        "samples_resumed": progress.samples_resumed,
        "samples_errored": progress.samples_errored,
        "samples_cached": progress.samples_cached,
        "samples_per_second": progress.samples_per_second,
        "remaining_seconds": _seconds(progress.remaining) if progress.HasField("remaining") else None,
        "batch_size": progress.batch_size,
        "output_tokens": progress.output_tokens,
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
    }


def _error_text(error: messages.JobError) -> str:
    """One text, as lmms-eval gives it: what happened, then the end of the log."""
    tail = f"\nEnd of the worker's log:\n{error.log_tail}" if error.log_tail else ""
    return f"{error.message}{tail}"


def _error(error: messages.JobError) -> dict[str, Any]:
    return {
        "code": _word(messages.JobErrorCode, error.code, "JOB_ERROR_CODE_"),
        "reason": error.reason,
        "message": error.message,
        "details": dict(error.details),
        "log_tail": error.log_tail,
    }


def _word(enum: Any, value: int, prefix: str) -> str:
    """An enum value's name in lower case; "unknown" for one that is not set or newer than this client."""
    name = enum.Name(value) if value in enum.values() else ""
    return name.removeprefix(prefix).lower() if value and name else "unknown"


def _time(message: messages.Job, field: str) -> str | None:
    """ISO 8601 in UTC; None while unset."""
    if not message.HasField(field):  # type: ignore[arg-type]
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC).isoformat()


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9

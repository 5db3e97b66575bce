"""Specifications and submissions between the public messages and the domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from lmms_eval_grpc.jobs.errors import Violation
from lmms_eval_grpc.jobs.results import JobErrorCode
from lmms_eval_grpc.jobs.secrets import Secrets
from lmms_eval_grpc.jobs.spec import (
    CheckpointKind,
    EvaluationSpec,
    JobSpec,
    MergeMode,
    MergeSpec,
    RetryPolicy,
    Seeds,
)
from lmms_eval_grpc.server.convert_values import read_duration, read_struct, write_duration, write_struct
from lmms_eval_grpc.v1 import evaluation_service_pb2, job_pb2

Request = evaluation_service_pb2.EvaluateRequest | evaluation_service_pb2.MergeCheckpointRequest
"""One that makes a job."""

ERROR_CODES = {code: job_pb2.JobErrorCode.Value(f"JOB_ERROR_CODE_{code.name}") for code in JobErrorCode}
_CODES = {value: code for code, value in ERROR_CODES.items()}
_MERGE_MODES = {mode: job_pb2.MergeMode.Value(f"MERGE_MODE_{mode.name}") for mode in MergeMode}
_CHECKPOINT_KINDS = {
    CheckpointKind.REGULAR: job_pb2.CHECKPOINT_KIND_REGULAR,
    CheckpointKind.EMA: job_pb2.CHECKPOINT_KIND_EMA,
}


@dataclass(frozen=True, slots=True)
class Submission:
    """What a request asks to be queued."""

    spec: JobSpec
    """As it may be seen."""
    secrets: Secrets
    """What that leaves out."""
    request_id: str
    request_digest: str
    """Of all that decides the job: the same digest is the same request."""
    labels: Mapping[str, str]
    priority: int


def read_evaluate_request(
    request: evaluation_service_pb2.EvaluateRequest,
) -> tuple[EvaluationSpec, list[Violation]]:
    """The specification with its defaults filled in, and what the message alone tells to be wrong with it."""
    spec, violations = read_evaluation_spec(request.spec)
    if not request.HasField("spec"):
        violations = [Violation("spec", "not set; say what to evaluate")]
    return spec, violations


def read_merge_request(request: evaluation_service_pb2.MergeCheckpointRequest) -> tuple[MergeSpec, list[Violation]]:
    """The specification as it stands in the message, and what the domain's types cannot express to be wrong."""
    message, violations = request.spec, []
    if not request.HasField("spec"):
        violations.append(Violation("spec", "not set; say what to merge"))
    kinds = {value: kind for kind, value in _CHECKPOINT_KINDS.items()}
    kinds[job_pb2.CHECKPOINT_KIND_UNSPECIFIED] = CheckpointKind.REGULAR
    if message.checkpoint_kind not in kinds:
        names = ", ".join(job_pb2.CheckpointKind.Name(value) for value in _CHECKPOINT_KINDS.values())
        violations.append(Violation("spec.checkpoint_kind", f"{message.checkpoint_kind} is none of: {names}"))
    spec = MergeSpec(
        checkpoint_path=message.checkpoint_path,
        output_path=message.output_path,
        checkpoint_kind=kinds.get(message.checkpoint_kind, CheckpointKind.REGULAR),
        config_path=message.config_path,
        max_shard_bytes=message.max_shard_bytes,
    )
    return spec, violations


def submission_of(request: Request, spec: JobSpec, secrets: Secrets, digest: str) -> Submission:
    """What is queued when ``request`` asks for ``spec``, which has no secrets any more."""
    return Submission(
        spec=spec,
        secrets=secrets,
        request_id=request.request_id.lower(),
        request_digest=digest,
        labels=dict(request.labels),
        priority=request.priority,
    )


def payload_of(request: Request) -> bytes:
    """The request without what does not decide the job: ``request_id``, ``validate_only``."""
    payload = type(request)()
    payload.CopyFrom(request)  # type: ignore[arg-type]
    payload.ClearField("request_id")
    if isinstance(payload, evaluation_service_pb2.EvaluateRequest):
        payload.ClearField("validate_only")
    return payload.SerializeToString(deterministic=True)


def read_evaluation_spec(message: job_pb2.EvaluationSpec) -> tuple[EvaluationSpec, list[Violation]]:
    """The specification with its defaults filled in, and what the domain's types cannot express to be wrong."""
    violations: list[Violation] = []
    given: dict[str, Any] = {"model": "", "tasks": ()}
    # Only what is set, which is little of all that there is; the domain's defaults are the contract's.
    for field, value in message.ListFields():
        name = field.name
        match name:
            case "model_args" | "gen_kwargs":
                given[name] = read_struct(value)
            case "batch_size":
                given[name] = _read_batch_size(value, violations)
            case "limit":
                given |= _read_limit(value, violations)
            case "seeds":
                given[name] = _read_seeds(value)
            case "run_timeout" | "stall_timeout":
                given[name] = read_duration(value)
            case "retry_policy":
                given[name] = _read_retry_policy(value, violations)
            case "merge":
                given[name] = _read_merge_mode(value, violations)
            case "tasks" | "include_path" | "track" | "compat":
                given[name] = tuple(value)
            case _:
                given[name] = value
    return EvaluationSpec(**given), violations


def _read_batch_size(message: job_pb2.BatchSize, violations: list[Violation]) -> int | None:
    match message.WhichOneof("size"):
        case "fixed":
            return message.fixed
        case "automatic":
            return None
        case _:
            description = "neither fixed nor automatic is set; set one, or leave batch_size out"
            violations.append(Violation("spec.batch_size", description))
            return None


def _read_limit(message: job_pb2.SampleLimit, violations: list[Violation]) -> dict[str, Any]:
    kind = message.WhichOneof("limit")
    if kind is None:
        violations.append(Violation("spec.limit", "neither count nor fraction is set; set one, or leave limit out"))
        return {}
    return {f"limit_{kind}": getattr(message, kind)}


def _read_retry_policy(message: job_pb2.RetryPolicy, violations: list[Violation]) -> RetryPolicy:
    codes = [_CODES.get(value) for value in message.retry_on]
    if None in codes:
        known = ", ".join(job_pb2.JobErrorCode.Name(value) for value in _CODES)
        violations.append(
            Violation("spec.retry_policy.retry_on", f"{list(message.retry_on)} has a value that is none of: {known}")
        )
    given: dict[str, Any] = {}
    if message.max_attempts:
        given["max_attempts"] = message.max_attempts
    if codes:
        given["retry_on"] = tuple(code for code in codes if code is not None)
    return RetryPolicy(**given)


def _read_merge_mode(value: job_pb2.MergeMode.ValueType, violations: list[Violation]) -> MergeMode:
    if value == job_pb2.MERGE_MODE_UNSPECIFIED:
        return MergeMode.NEVER
    for mode, known in _MERGE_MODES.items():
        if known == value:
            return mode
    names = ", ".join(job_pb2.MergeMode.Name(known) for known in _MERGE_MODES.values())
    violations.append(Violation("spec.merge", f"{value} is none of: {names}"))
    return MergeMode.NEVER


def _read_seeds(message: job_pb2.Seeds) -> Seeds:
    given = {field.name: value for field, value in message.ListFields()}
    return Seeds(**given)


def write_spec(spec: JobSpec) -> dict[str, Message]:
    """The ``spec`` oneof of a Job: one keyword argument."""
    if isinstance(spec, EvaluationSpec):
        return {"evaluation": write_evaluation_spec(spec)}
    return {"merge": write_merge_spec(spec)}


def write_evaluation_spec(spec: EvaluationSpec) -> job_pb2.EvaluationSpec:
    """The specification as a message, defaults written out."""
    message = job_pb2.EvaluationSpec(
        model=spec.model,
        tasks=spec.tasks,
        num_fewshot=spec.num_fewshot,
        max_batch_size=spec.max_batch_size or 0,
        device=spec.device,
        offset=spec.offset,
        log_samples=spec.log_samples,
        predict_only=spec.predict_only,
        num_gpus=spec.num_gpus,
        output_dir=spec.output_dir,
        seeds=job_pb2.Seeds(
            python=spec.seeds.python, numpy=spec.seeds.numpy, torch=spec.seeds.torch, fewshot=spec.seeds.fewshot
        ),
        repeats=spec.repeats,
        system_instruction=spec.system_instruction,
        apply_chat_template=spec.apply_chat_template,
        fewshot_as_multiturn=spec.fewshot_as_multiturn,
        reasoning_tags=spec.reasoning_tags,
        force_simple=spec.force_simple,
        trust_remote_code=spec.trust_remote_code,
        use_cache=spec.use_cache,
        agentic_trace_mode=spec.agentic_trace_mode,
        baseline=spec.baseline,
        max_tokens=spec.max_tokens,
        include_path=spec.include_path,
        max_error_share=spec.max_error_share,
        merge=_MERGE_MODES[spec.merge],
        track=spec.track,
        process_with_media=spec.process_with_media,
        bootstrap_iters=spec.bootstrap_iters,
        override_tasks=spec.override_tasks,
        timezone=spec.timezone,
        compat=spec.compat,
    )
    if spec.model_args:
        message.model_args.CopyFrom(write_struct(spec.model_args))
    if spec.gen_kwargs:
        message.gen_kwargs.CopyFrom(write_struct(spec.gen_kwargs))
    if spec.batch_size is not None:
        message.batch_size.fixed = spec.batch_size
    if spec.limit_count is not None:
        message.limit.count = spec.limit_count
    if spec.limit_fraction is not None:
        message.limit.fraction = spec.limit_fraction
    if spec.run_timeout is not None:
        message.run_timeout.CopyFrom(write_duration(spec.run_timeout))
    if spec.stall_timeout is not None:
        message.stall_timeout.CopyFrom(write_duration(spec.stall_timeout))
    if spec.retry_policy is not None:
        message.retry_policy.max_attempts = spec.retry_policy.max_attempts
        message.retry_policy.retry_on.extend(ERROR_CODES[code] for code in spec.retry_policy.retry_on)
    return message


def write_merge_spec(spec: MergeSpec) -> job_pb2.MergeSpec:
    """The specification of a merge as a message."""
    return job_pb2.MergeSpec(
        checkpoint_path=spec.checkpoint_path,
        output_path=spec.output_path,
        checkpoint_kind=_CHECKPOINT_KINDS[spec.checkpoint_kind],
        config_path=spec.config_path,
        max_shard_bytes=spec.max_shard_bytes,
    )

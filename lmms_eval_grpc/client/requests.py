"""Builds the service's requests from lmms-eval's arguments. Every decision about what an argument means is here.

An argument that no request can carry is an :class:`InvalidRequest` that names the field as the server would, raised
before anything is sent. Values that are merely out of bounds travel: the server names all violations at once.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypedDict

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from lmms_eval_grpc.client.arguments import parse_arg_string, to_json_value
from lmms_eval_grpc.client.errors import InvalidRequest, Violation
from lmms_eval_grpc.v1 import admin_service_pb2 as admin
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import job_pb2 as messages

CheckpointType = Literal["regular", "ema"]
State = str | int
"""A job's state: lmms-eval's word for it ("queued") or a `JobState` value."""


class EvaluationOptions(TypedDict, total=False):
    """What `evaluate` takes beyond lmms-eval's client: the rest of its command line, by name, and the job's settings.

    None means the same as leaving an option out.
    """

    max_batch_size: int | None
    """Ceiling of the automatic batch size."""
    offset: int | None
    """Documents skipped at the start of each task, before `limit` counts."""
    seed: int | str | Sequence[int | None] | None
    """One seed for all, or up to four for Python, NumPy, torch and the few-shot choice; also as "0,1234,1234,1234"."""
    repeats: int | None
    """Generations per document."""
    system_instruction: str | None
    apply_chat_template: bool | None
    fewshot_as_multiturn: bool | None
    reasoning_tags: str | Sequence[Sequence[str]] | None
    """[start, end] pairs that are cut from responses, also as JSON text; "none" cuts nothing."""
    force_simple: bool | None
    trust_remote_code: bool | None
    use_cache: str | PathLike[str] | None
    """Folder on the server of a response cache shared by jobs."""
    agentic_trace_mode: Literal["basic", "full"] | None
    baseline: str | None
    """Samples file on the server, or a preset's name, for a paired comparison."""
    max_tokens: int | None
    """Budget of generated tokens for the whole job; what is not answered when it is spent is skipped."""
    max_error_share: float | None
    """Largest share of a task's samples that may end in an error without failing the job, 0 to 1."""
    run_timeout: float | None
    """Longest time in seconds that one attempt may run."""
    stall_timeout: float | None
    """Longest time in seconds without progress before an attempt counts as hung."""
    retry_policy: int | Mapping[str, Any] | None
    """Attempts in all when one fails, or {"max_attempts": 3, "retry_on": ["worker_died", "stalled"]}."""
    merge: Literal["never", "auto"] | None
    """auto: merges a sharded checkpoint before it is evaluated; never: refuses one."""
    track: str | Sequence[str] | None
    """Trackers that the service tells the results: "tensorboard:FOLDER", "wandb:PROJECT", "mlflow:EXPERIMENT"."""
    process_with_media: bool | None
    """Whether scorers get documents with their images, audio and video also where the task does not ask for it."""
    bootstrap_iters: int | None
    """Replicates of a bootstrap; 0: none."""
    override_tasks: bool | None
    """Whether a task in a later folder wins over one of the same name in an earlier one, or in the package."""
    timezone: str | None
    """IANA name of the zone of the dates in the names of results files."""
    compat: str | Sequence[str] | None
    """Behaviours of lmms-eval to keep where the engine corrects them: "fewshot_stream"."""
    include_path: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """Folders on the server with task YAML files."""
    labels: Mapping[str, str] | None
    """Your own labels, such as {"run": "sft-7", "step": "1200"}; `list_jobs` can filter by them."""
    priority: int | None
    """Higher runs first, -1000 to 1000."""
    request_id: str | None
    """Idempotency key, a UUID. Left out, a new one is made, so that a retry never queues twice."""
    validate_only: bool | None
    """Check only; nothing is queued."""


_REQUEST_OPTIONS = ("labels", "priority", "request_id", "validate_only")


def evaluate(
    *,
    model: str,
    tasks: str | Sequence[str],
    model_args: Mapping[str, Any] | str | None,
    num_fewshot: int | None,
    batch_size: int | str | None,
    device: str | None,
    limit: int | float | None,
    gen_kwargs: Mapping[str, Any] | str | None,
    log_samples: bool,
    predict_only: bool,
    num_gpus: int,
    output_dir: str | PathLike[str] | None,
    options: EvaluationOptions,
) -> service.EvaluateRequest:
    """The Evaluate request for these arguments.

    Raises:
        TypeError: an option is not one of `EvaluationOptions`.
        InvalidRequest: an argument has a value that cannot be sent; all such arguments are listed.
    """
    if unknown := sorted(set(options) - set(EvaluationOptions.__annotations__)):
        raise TypeError(
            f"evaluate() got unexpected arguments {', '.join(unknown)};"
            f" beyond lmms-eval's it takes {', '.join(EvaluationOptions.__annotations__)}"
        )
    given: dict[str, Any] = {
        "model": model,
        "tasks": tasks,
        "model_args": model_args,
        "num_fewshot": num_fewshot,
        "batch_size": batch_size,
        "device": device,
        "limit": limit,
        "gen_kwargs": gen_kwargs,
        "log_samples": log_samples,
        "predict_only": predict_only,
        "num_gpus": num_gpus,
        "output_dir": output_dir,
        **options,
    }
    request = service.EvaluateRequest(request_id=str(given.get("request_id") or uuid.uuid4()))
    violations = []
    for name, value in given.items():
        if value is None or name == "request_id":
            continue
        target: Any = request if name in _REQUEST_OPTIONS else request.spec
        try:
            _WRITERS.get(name, _set_plain)(target, name, value)
        except (TypeError, ValueError) as error:
            field = name if target is request else f"spec.{name}"
            violations.append(Violation(field, f"{value!r} is not valid: {error}"))
    if violations:
        raise InvalidRequest.of(violations)
    return request


def merge_checkpoint(
    checkpoint_path: str | PathLike[str],
    output_path: str | PathLike[str] | None,
    checkpoint_type: CheckpointType,
    *,
    config_path: str | PathLike[str] | None = None,
    max_shard_bytes: int | None = None,
    labels: Mapping[str, str] | None = None,
    priority: int = 0,
    request_id: str | None = None,
) -> service.MergeCheckpointRequest:
    """The MergeCheckpoint request for these arguments."""
    kinds = {"regular": messages.CHECKPOINT_KIND_REGULAR, "ema": messages.CHECKPOINT_KIND_EMA}
    if checkpoint_type not in kinds:
        description = f"{checkpoint_type!r} is not a kind of checkpoint; use 'regular' or 'ema'"
        raise InvalidRequest.of([Violation("spec.checkpoint_kind", description)])
    spec = messages.MergeSpec(
        checkpoint_path=_absolute_if_here(fspath(checkpoint_path)),
        output_path=_absolute_beside_here(checkpoint_path, output_path),
        checkpoint_kind=kinds[checkpoint_type],
        config_path="" if config_path is None else _absolute_if_here(fspath(config_path)),
        max_shard_bytes=max_shard_bytes or 0,
    )
    request = service.MergeCheckpointRequest(spec=spec, request_id=request_id or str(uuid.uuid4()), priority=priority)
    _set_labels(request, "labels", labels or {})
    return request


def _absolute_if_here(folder: str) -> str:
    """A folder of this machine by its absolute path, because the server runs in another folder; all else as it is."""
    return str(Path(folder).absolute()) if Path(folder).is_dir() else folder


def _absolute_beside_here(checkpoint: str | PathLike[str], output: str | PathLike[str] | None) -> str:
    """The output by its absolute path, if the checkpoint is on this machine, as the output then will be."""
    if output is None:
        return ""
    return str(Path(output).absolute()) if Path(checkpoint).is_dir() else fspath(output)


def list_jobs(
    states: State | Iterable[State], labels: Mapping[str, str] | None, owner: str, page_size: int, *, full: bool
) -> service.ListJobsRequest:
    """The request for the first page of ListJobs."""
    return service.ListJobsRequest(
        states=[_state(state) for state in ([states] if isinstance(states, str | int) else states)],
        labels=labels or {},
        owner=owner,
        page_size=page_size,
        view=messages.JOB_VIEW_FULL if full else messages.JOB_VIEW_BASIC,
    )


def drain(finish_queued: bool, timeout: float | None) -> admin.DrainRequest:
    """The Drain request for these arguments."""
    request = admin.DrainRequest(finish_queued=finish_queued)
    _set_optional_seconds(request.timeout, "timeout", timeout)
    return request


def set_priority(job_id: str, priority: int) -> admin.SetJobPriorityRequest:
    """The SetJobPriority request for these arguments."""
    try:
        return admin.SetJobPriorityRequest(job_id=job_id, priority=priority)
    except (TypeError, ValueError) as error:
        raise InvalidRequest.of([Violation("priority", f"{priority!r} is not valid: {error}")]) from error


def collect_garbage(keep: int | None, older_than: float | None, dry_run: bool) -> admin.CollectGarbageRequest:
    """The CollectGarbage request for these arguments."""
    try:
        request = admin.CollectGarbageRequest(keep=keep, dry_run=dry_run)
    except (TypeError, ValueError) as error:
        raise InvalidRequest.of([Violation("keep", f"{keep!r} is not valid: {error}")]) from error
    _set_optional_seconds(request.older_than, "older_than", older_than)
    return request


def _set_optional_seconds(target: Duration, name: str, value: float | None) -> None:
    if value is None:
        return
    try:
        target.FromTimedelta(timedelta(seconds=value))
        target.SetInParent()
    except (TypeError, ValueError, OverflowError) as error:
        description = f"{value!r} is not a number of seconds ({error}); leave it out if there is to be no bound"
        raise InvalidRequest.of([Violation(name, description)]) from error


def _state(state: State) -> messages.JobState.ValueType:
    if isinstance(state, int):
        return messages.JobState.ValueType(state)
    try:
        return messages.JobState.Value(f"JOB_STATE_{state.upper()}")
    except ValueError:
        known = ", ".join(name.removeprefix("JOB_STATE_").lower() for name in messages.JobState.keys()[1:])
        raise InvalidRequest.of([Violation("states", f"{state!r} is not a state; use one of {known}")]) from None


# Each writer puts one argument into the message, or raises a ValueError or TypeError that says what is wrong with it.


def _set_plain(target: Any, name: str, value: Any) -> None:
    setattr(target, name, value)


def _set_text_path(target: Any, name: str, value: Any) -> None:
    setattr(target, name, fspath(value))


def _set_struct(target: Any, name: str, value: Any) -> None:
    arguments = parse_arg_string(value) if isinstance(value, str) else value
    if not isinstance(arguments, Mapping):
        raise TypeError("use a dictionary, or text of the form key=value,key=value")
    struct: Struct = getattr(target, name)
    struct.update(to_json_value(arguments, name))


def _set_model_args(target: Any, name: str, value: Any) -> None:
    _set_struct(target, name, value)
    # "run/checkpoint-300" may be a folder here or a name on the Hugging Face Hub. As in transformers the folder wins,
    # and the server, which runs in another folder, is told which one it is.
    fields = target.model_args.fields
    if "pretrained" in fields and (folder := fields["pretrained"].string_value):
        fields["pretrained"].string_value = _absolute_if_here(folder)


def _set_tasks(target: Any, name: str, value: Any) -> None:
    names = value.split(",") if isinstance(value, str) else list(value)
    target.tasks.extend(item.strip() if isinstance(item, str) else item for item in names)


def _set_batch_size(target: Any, name: str, value: Any) -> None:
    if isinstance(value, str):
        if value.strip().lower() == "auto":
            target.batch_size.automatic.SetInParent()
            return
        value = int(value) if value.strip().isdecimal() else value
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError("use a whole number of at least 1, or 'auto'")
    target.batch_size.fixed = int(value)


def _set_limit(target: Any, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError("use a count of at least 1, a fraction between 0 and 1, or -1 for all documents")
    if value == -1:
        return
    # lmms-eval's rule: below 1 it is a share, from 1 on a count, 1.0 and 2.7 included (1 and 2 documents).
    if 0 < float(value) < 1:
        target.limit.fraction = float(value)
    else:
        target.limit.count = math.floor(value)


def _set_seeds(target: Any, name: str, value: Any) -> None:
    if isinstance(value, str):
        seeds = [None if part.strip() in ("", "None") else int(part) for part in value.split(",")]
    else:
        seeds = [value] if isinstance(value, int) else list(value)
    if not 1 <= len(seeds) <= 4:
        raise ValueError("give one seed for all, or up to four: python, numpy, torch, few-shot")
    if len(seeds) == 1:
        seeds *= 4
    for field, seed in zip(("python", "numpy", "torch", "fewshot"), seeds, strict=False):
        if seed is not None:
            setattr(target.seeds, field, seed)


def _set_reasoning_tags(target: Any, name: str, value: Any) -> None:
    target.reasoning_tags = value if isinstance(value, str) else json.dumps([list(pair) for pair in value])


def _set_include_path(target: Any, name: str, value: Any) -> None:
    folders = [value] if isinstance(value, str | PathLike) else value
    target.include_path.extend(fspath(folder) for folder in folders)


def _set_seconds(target: Any, name: str, value: Any) -> None:
    if not math.isfinite(value) or value <= 0:
        raise ValueError("use a number of seconds greater than 0")
    getattr(target, name).FromTimedelta(timedelta(seconds=value))


def _set_retry_policy(target: Any, name: str, value: Any) -> None:
    policy = value if isinstance(value, Mapping) else {"max_attempts": value}
    if unknown := sorted(set(policy) - {"max_attempts", "retry_on"}):
        raise ValueError(f"there is no {', '.join(unknown)}; use max_attempts and retry_on")
    target.retry_policy.max_attempts = policy.get("max_attempts", 0)
    for code in policy.get("retry_on", ()):
        known = {word.removeprefix("JOB_ERROR_CODE_").lower(): word for word in messages.JobErrorCode.keys()[1:]}
        if code not in known:
            raise ValueError(f"{code!r} is no kind of failure; use one of {', '.join(known)}")
        target.retry_policy.retry_on.append(messages.JobErrorCode.Value(known[code]))


def _set_merge(target: Any, name: str, value: Any) -> None:
    if value not in ("never", "auto"):
        raise ValueError("use 'never' or 'auto'")
    target.merge = messages.MergeMode.Value(f"MERGE_MODE_{value.upper()}")


def _set_words(target: Any, name: str, value: Any) -> None:
    getattr(target, name).extend([value] if isinstance(value, str) else value)


def _set_labels(target: Any, name: str, value: Any) -> None:
    target.labels.update({key: str(item) for key, item in value.items()})


_WRITERS: dict[str, Callable[[Any, str, Any], None]] = {
    "tasks": _set_tasks,
    "model_args": _set_model_args,
    "gen_kwargs": _set_struct,
    "batch_size": _set_batch_size,
    "limit": _set_limit,
    "output_dir": _set_text_path,
    "use_cache": _set_text_path,
    "seed": _set_seeds,
    "reasoning_tags": _set_reasoning_tags,
    "include_path": _set_include_path,
    "run_timeout": _set_seconds,
    "stall_timeout": _set_seconds,
    "retry_policy": _set_retry_policy,
    "merge": _set_merge,
    "track": _set_words,
    "compat": _set_words,
    "labels": _set_labels,
}

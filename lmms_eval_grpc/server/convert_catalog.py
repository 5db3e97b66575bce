"""The queue, the catalog of tasks and models, and the server itself as public messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lmms_eval_grpc.engine.models.entry import ModelArgument, ModelEntry
from lmms_eval_grpc.engine.tasks.index import TaskEntry
from lmms_eval_grpc.jobs.errors import Violation
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler.feed import QueueChange
from lmms_eval_grpc.scheduler.queue import QueueView
from lmms_eval_grpc.scheduler.slots import SlotView
from lmms_eval_grpc.server.convert_job import STATES, write_state
from lmms_eval_grpc.server.convert_values import clean, write_time
from lmms_eval_grpc.server.principals import Principal
from lmms_eval_grpc.store.base import JobFilter
from lmms_eval_grpc.v1 import catalog_pb2, evaluation_service_pb2, job_pb2

_TASK_KINDS = {
    "task": catalog_pb2.TASK_KIND_TASK,
    "python_task": catalog_pb2.TASK_KIND_TASK,
    "group": catalog_pb2.TASK_KIND_GROUP,
    "tag": catalog_pb2.TASK_KIND_TAG,
}
_MODEL_KINDS = {"chat": catalog_pb2.MODEL_KIND_CHAT, "simple": catalog_pb2.MODEL_KIND_SIMPLE}
_VALUE_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array"}
_STATES_READ = {number: state for state, number in STATES.items()}


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What does not change while a server runs."""

    version: str
    instance_id: str
    start_time: float
    package_versions: Mapping[str, str]
    python_version: str
    platform: str
    capabilities: tuple[str, ...]
    max_queued_jobs: int
    max_watches: int
    max_watches_per_client: int
    max_watches_per_principal: int | None
    max_jobs_per_principal: int | None
    max_submissions_per_minute: int | None
    max_stream_bytes_per_second: int | None
    max_request_bytes: int
    max_labels: int
    max_finished_jobs: int
    executor: str
    authentication: tuple[str, ...]


def read_job_filter(
    states: Iterable[job_pb2.JobState.ValueType], labels: Mapping[str, str], owner: str, violations: list[Violation]
) -> JobFilter:
    """Which jobs a listing is to show; what is wrong is added to ``violations``."""
    known = set()
    for index, number in enumerate(states):
        state = _STATES_READ.get(number)
        if state is None:
            violations.append(Violation(f"states[{index}]", f"{number} is not a state that a job can be in"))
        else:
            known.add(state)
    return JobFilter(frozenset(known), dict(labels), owner)


def write_queue(view: QueueView, counts: Mapping[JobState, int]) -> evaluation_service_pb2.QueueSnapshot:
    """The queue at one moment, with the number of kept jobs by state."""
    return evaluation_service_pb2.QueueSnapshot(
        revision=view.revision,
        accepting=view.accepting,
        running_job_ids=view.running,
        queued_job_ids=view.queued,
        completed_count=counts.get(JobState.COMPLETED, 0),
        failed_count=counts.get(JobState.FAILED, 0),
        cancelled_count=counts.get(JobState.CANCELLED, 0),
        capacity=view.capacity,
        slots=write_slots(view.slots),
        paused=view.pause_reason is not None,
        pause_reason=view.pause_reason or "",
        draining=view.draining,
        trouble=view.trouble or "",
    )


def write_queue_change(change: QueueChange) -> evaluation_service_pb2.QueueChange:
    """A job entered a state."""
    return evaluation_service_pb2.QueueChange(
        revision=change.revision,
        job_id=change.job_id,
        previous_state=write_state(change.previous),
        state=STATES[change.state],
        change_time=write_time(change.time),
    )


def write_slots(slots: Sequence[SlotView]) -> list[catalog_pb2.Slot]:
    """The devices and who holds them."""
    return [
        catalog_pb2.Slot(
            index=index,
            device=slot.device.name,
            device_name=slot.device.product,
            memory_bytes=slot.device.memory_bytes,
            job_id=slot.job_id or "",
        )
        for index, slot in enumerate(slots)
    ]


def task_kind(entry: TaskEntry) -> catalog_pb2.TaskKind.ValueType:
    """What a name stands for."""
    return _TASK_KINDS[entry.kind]


def write_task(entry: TaskEntry) -> catalog_pb2.TaskInfo:
    """A name that can stand in a specification's tasks."""
    return catalog_pb2.TaskInfo(
        name=entry.name,
        kind=_TASK_KINDS[entry.kind],
        output_type=entry.output_type,
        description=entry.description,
        members=entry.members,
        source=clean(entry.source or ""),
        tags=entry.tags,
    )


def write_model(entry: ModelEntry, missing_packages: Sequence[str]) -> catalog_pb2.ModelInfo:
    """A backend, with what it needs and is not installed."""
    return catalog_pb2.ModelInfo(
        name=entry.name,
        aliases=entry.aliases,
        kind=_MODEL_KINDS[entry.kind],
        modalities=entry.modalities,
        available=not missing_packages,
        missing_packages=missing_packages,
        arguments=[_write_argument(name, argument) for name, argument in entry.arguments.items()],
        source=entry.source,
        any_arguments=entry.any_arguments,
    )


def _write_argument(name: str, argument: ModelArgument) -> catalog_pb2.ModelArgument:
    types = argument.type if isinstance(argument.type, tuple) else (argument.type,)
    return catalog_pb2.ModelArgument(
        name=name,
        value_type=" or ".join(_VALUE_TYPES.get(kind, kind.__name__) for kind in types if kind is not type(None)),
        description=argument.description,
        required=argument.required,
        default_value="" if argument.required or argument.default is None else _default_text(argument.default),
    )


def _default_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_server(
    facts: ServerFacts, slots: Sequence[SlotView], *, jobs_started: int, template_warm: bool
) -> catalog_pb2.ServerInfo:
    """What the server is and can do."""
    return catalog_pb2.ServerInfo(
        version=facts.version,
        instance_id=facts.instance_id,
        start_time=write_time(facts.start_time),
        package_versions=facts.package_versions,
        slots=write_slots(slots),
        capabilities=facts.capabilities,
        limits=catalog_pb2.ServerLimits(
            max_queued_jobs=facts.max_queued_jobs,
            max_watches=facts.max_watches,
            max_watches_per_client=facts.max_watches_per_client,
            max_request_bytes=facts.max_request_bytes,
            max_labels=facts.max_labels,
            max_finished_jobs=facts.max_finished_jobs,
            max_jobs_per_principal=facts.max_jobs_per_principal or 0,
            max_submissions_per_minute=facts.max_submissions_per_minute or 0,
            max_watches_per_principal=facts.max_watches_per_principal or 0,
            max_stream_bytes_per_second=facts.max_stream_bytes_per_second or 0,
        ),
        python_version=facts.python_version,
        platform=facts.platform,
        jobs_started=jobs_started,
        template_warm=template_warm,
        executor=facts.executor,
        authentication=facts.authentication,
    )


def write_principal(principal: Principal) -> catalog_pb2.Principal:
    """A caller."""
    return catalog_pb2.Principal(name=principal.name, role=catalog_pb2.Role.Value(f"ROLE_{principal.role.name}"))

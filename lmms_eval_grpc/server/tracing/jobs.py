"""A job's spans: ``job``, in it ``queued`` and ``attempt`` in turn, and in each attempt one per stage.

They are made from the events of the job's log, each when it is over. Nothing of them has to be kept but the place in
the submitter's trace, which is part of the job: ids of spans that have children follow from the job's id, so that after
a restart the children of before and of after have the same parent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, Status, StatusCode, Tracer

from lmms_eval_grpc.jobs.errors import JobUnreadable
from lmms_eval_grpc.jobs.events import JobEvent, StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError, JobStage, Progress
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.server.tracing.ids import ChosenIds, inside, read_trace_parent, span_id_of
from lmms_eval_grpc.store.base import JobStore

Attributes = Mapping[str, str | int | float | tuple[str, ...]]

MAX_TASKS = 32
"""Names of tasks that a span tells."""


@dataclass(slots=True)
class _Open:
    """What a job is at. Times are seconds since the epoch."""

    since: float | None
    """Start of the present wait, or of the present attempt. None: not known."""
    attempt: int = 0
    """The one that runs; 0: the job waits."""
    stage: JobStage | None = None
    stage_since: float = 0.0


class TraceJobs:
    """Follows the journal: :meth:`follow` is its listener."""

    def __init__(self, tracer: Tracer, ids: ChosenIds) -> None:
        self._tracer = tracer
        self._ids = ids
        self._open: dict[str, _Open] = {}

    async def resume(self, store: JobStore) -> None:
        """Goes on with the jobs that an earlier server left. Raises StoreUnavailable."""
        for job in (await store.unfinished()).jobs:
            if not job.trace_parent:
                continue  # Its events are not followed.
            if job.state is not JobState.QUEUED:
                self._open[job.job_id] = _Open(job.start_time, job.attempt)
            elif job.attempt == 0:
                self._open[job.job_id] = _Open(job.create_time)
            else:
                with contextlib.suppress(JobUnreadable):
                    events = await store.events(job.job_id)
                    changes = [event.time for event in events if isinstance(event.body, StateChange)]
                    self._open[job.job_id] = _Open(changes[-1] if changes else None)

    def follow(self, job: Job, event: JobEvent) -> None:
        """Ends the spans that an event ends. ``job`` is as it is after it."""
        parent = read_trace_parent(job.trace_parent)
        if parent is None:
            return  # It was submitted when there were no traces.
        if isinstance(event.body, Progress):
            self._progressed(job, event.body.stage, event.time, parent)
        elif isinstance(event.body, StateChange):
            self._entered(job, event.body, event.time, parent)

    def _progressed(self, job: Job, stage: JobStage, at: float, parent: SpanContext) -> None:
        opened = self._open.get(job.job_id)
        if opened is not None and opened.attempt and opened.stage is not stage:
            self._end_stage(job, opened, at, parent)
            opened.stage, opened.stage_since = stage, at

    def _entered(self, job: Job, change: StateChange, at: float, parent: SpanContext) -> None:
        opened = self._open.get(job.job_id)
        if change.state is JobState.CANCELLING:
            return
        if opened is not None:
            self._end_phase(job, opened, change, at, parent)
        match change.state:
            case JobState.QUEUED:
                self._open[job.job_id] = _Open(at)
            case JobState.RUNNING:
                self._open[job.job_id] = _Open(at, job.attempt, JobStage.STARTING, at)
            case _:
                self._open.pop(job.job_id, None)
                times = (job.create_time, at)
                self._make("job", times, inside(parent), _describe(job), job.error, span_id_of(job.job_id))

    def _end_phase(self, job: Job, opened: _Open, change: StateChange, at: float, parent: SpanContext) -> None:
        context = inside(parent, span_id_of(job.job_id))
        attributes: dict[str, str | int | tuple[str, ...]] = {"lmms_eval.job_id": job.job_id}
        if change.reason:
            attributes["lmms_eval.reason"] = change.reason
        if not opened.attempt:
            if opened.since is not None:
                self._make("queued", (opened.since, at), context, attributes)
            return
        self._end_stage(job, opened, at, parent)
        attributes["lmms_eval.attempt"] = opened.attempt
        attributes["lmms_eval.next_state"] = change.state.value
        if job.devices:
            attributes["lmms_eval.devices"] = job.devices
        times = (at if opened.since is None else opened.since, at)
        self._make("attempt", times, context, attributes, change.error, _attempt_id(job, opened))

    def _end_stage(self, job: Job, opened: _Open, at: float, parent: SpanContext) -> None:
        if opened.stage is not None:
            context = inside(parent, _attempt_id(job, opened))
            self._make(opened.stage.value, (opened.stage_since, at), context, {"lmms_eval.job_id": job.job_id})

    def _make(
        self,
        name: str,
        times: tuple[float, float],
        context: Context,
        attributes: Attributes,
        error: JobError | None = None,
        span_id: int | None = None,
    ) -> None:
        """A span that is over. ``span_id`` None: any."""
        began, ended = (round(seconds * 1e9) for seconds in times)
        with self._ids.choose(span_id):
            span = self._tracer.start_span(name, context, attributes=attributes, start_time=began)
        if error is not None:
            span.set_attribute("error.type", error.reason)
            span.set_attribute("lmms_eval.error_code", error.code.value)
            span.set_status(Status(StatusCode.ERROR, error.reason))
        span.end(max(began, ended))


def _attempt_id(job: Job, opened: _Open) -> int:
    return span_id_of(f"{job.job_id}/{opened.attempt}")


def _describe(job: Job) -> Attributes:
    told: dict[str, str | int | float | tuple[str, ...]] = {
        "lmms_eval.job_id": job.job_id,
        "lmms_eval.job_kind": job.kind.value,
        "lmms_eval.state": job.state.value,
        "lmms_eval.attempts": job.attempt,
        "lmms_eval.owner": job.owner,
    }
    if isinstance(job.spec, EvaluationSpec):
        told |= {"lmms_eval.model": job.spec.model, "lmms_eval.tasks": job.spec.tasks[:MAX_TASKS]}
    return told

"""Metrics of jobs, from the events of their logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lmms_eval_grpc.jobs.events import JobEvent, StateChange
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import EvaluationResult, Progress, TaskResult
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.server.metrics.instruments import Instruments

_HOLDING = (JobState.RUNNING, JobState.CANCELLING)


@dataclass(slots=True)
class _Attempt:
    """What was counted of an attempt that runs."""

    devices: tuple[str, ...]
    began: float
    """On the monotonic clock."""
    answered: int = 0
    cached: int = 0
    output_tokens: int = 0


class MeasureJobs:
    """Follows the journal: :meth:`follow` is its listener."""

    def __init__(self, instruments: Instruments, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._instruments = instruments
        self._monotonic = monotonic
        self._attempts: dict[str, _Attempt] = {}
        self._busy: dict[str, float] = {}

    def busy_seconds(self) -> dict[str, float]:
        """Seconds for which jobs have held each device, by its name."""
        now = self._monotonic()
        busy = dict(self._busy)
        for attempt in self._attempts.values():
            for device in attempt.devices:
                busy[device] = busy.get(device, 0.0) + now - attempt.began
        return busy

    def follow(self, job: Job, event: JobEvent) -> None:
        """Counts an event. ``job`` is as it is after it."""
        body = event.body
        if isinstance(body, Progress):
            self._progressed(job, body)
        elif isinstance(body, TaskResult):
            self._instruments.samples_scored.inc(body.samples_scored)
            self._instruments.sample_errors.inc(body.samples_errored)
        else:
            self._entered(job, body, event.time)

    def _entered(self, job: Job, change: StateChange, at: float) -> None:
        kind = job.kind.value
        if change.error is not None:
            self._instruments.job_failures.labels(change.error.code.value).inc()
        if change.state not in _HOLDING:
            self._let_go(job.job_id)
        match change.state:
            case JobState.QUEUED if change.previous is None:
                self._instruments.jobs_submitted.labels(kind).inc()
            case JobState.QUEUED:
                self._instruments.requeues.labels("interrupted" if change.error is None else "failed").inc()
            case JobState.RUNNING:
                self._instruments.attempts.labels(kind).inc()
                if job.attempt == 1:
                    self._instruments.job_wait.labels(kind).observe(max(0.0, at - job.create_time))
                self._attempts[job.job_id] = _Attempt(job.devices, self._monotonic())
            case JobState.COMPLETED | JobState.FAILED | JobState.CANCELLED:
                self._instruments.jobs_ended.labels(kind, job.state.value).inc()
                if job.start_time is not None:
                    self._instruments.job_run.labels(kind, job.state.value).observe(max(0.0, at - job.start_time))
                if isinstance(job.result, EvaluationResult):
                    self._instruments.input_tokens.inc(job.result.input_tokens)

    def _let_go(self, job_id: str) -> None:
        attempt = self._attempts.pop(job_id, None)
        if attempt is not None:
            elapsed = self._monotonic() - attempt.began
            for device in attempt.devices:
                self._busy[device] = self._busy.get(device, 0.0) + elapsed

    def _progressed(self, job: Job, progress: Progress) -> None:
        attempt = self._attempts.get(job.job_id)
        if attempt is None:
            return
        # Those that were answered in an attempt before were counted then.
        answered = max(0, progress.samples_done - progress.samples_resumed - progress.samples_cached)
        if answered > attempt.answered:
            self._instruments.samples_answered.labels("model").inc(answered - attempt.answered)
            attempt.answered = answered
        if progress.samples_cached > attempt.cached:
            self._instruments.samples_answered.labels("cache").inc(progress.samples_cached - attempt.cached)
            attempt.cached = progress.samples_cached
        if progress.output_tokens > attempt.output_tokens:
            self._instruments.output_tokens.inc(progress.output_tokens - attempt.output_tokens)
            attempt.output_tokens = progress.output_tokens

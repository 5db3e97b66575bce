"""A job after each of its events."""

from __future__ import annotations

import pytest

from lmms_eval_grpc.jobs.events import JobEvent, StateChange
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.jobs.spec import JobKind, MergeSpec
from lmms_eval_grpc.jobs.state import IllegalTransition, JobState
from tests.jobs.examples import progress, queued, spec, submitted, task_result, then


def test_a_whole_life_leaves_its_traces() -> None:
    job, _ = queued(1)
    assert (job.sequence, job.state, job.attempt, job.start_time) == (1, JobState.QUEUED, 0, None)
    job, _ = then(job, JobState.RUNNING, time=2000.0, devices=("cuda:0",))
    assert (job.sequence, job.attempt, job.start_time, job.devices) == (2, 1, 2000.0, ("cuda:0",))
    job, _ = then(job, progress(10))
    job, _ = then(job, task_result("digits"))
    job, _ = then(job, JobState.COMPLETED, time=2010.0)
    assert (job.sequence, job.state, job.end_time) == (5, JobState.COMPLETED, 2010.0)
    assert job.progress == progress(10)
    assert job.task_results == (task_result("digits"),)


def test_a_requeued_job_has_no_devices_and_keeps_what_it_had_finished() -> None:
    job, _ = queued(1)
    job, _ = then(job, JobState.RUNNING, devices=("cuda:0",))
    job, _ = then(job, task_result("digits"))
    job, _ = then(job, JobState.QUEUED)
    assert (job.devices, job.start_time, job.attempt) == ((), None, 1)
    assert job.task_results == (task_result("digits"),)
    job, _ = then(job, JobState.RUNNING)
    assert job.attempt == 2


def test_a_task_that_is_finished_again_replaces_its_earlier_result() -> None:
    job, _ = queued(1)
    job, _ = then(job, JobState.RUNNING)
    for value in (0.25, 0.75):
        job, _ = then(job, task_result("digits", value))
    job, _ = then(job, task_result("letters"))
    assert job.task_results == (task_result("digits", 0.75), task_result("letters"))


def test_an_error_and_a_reason_are_kept() -> None:
    job, _ = queued(1)
    job, _ = then(job, JobState.RUNNING)
    error = JobError(JobErrorCode.WORKER_DIED, "WORKER_KILLED", "killed", {"signal": "SIGKILL"}, "the end")
    failed, _ = then(job, StateChange(JobState.RUNNING, JobState.FAILED, 1, error=error))
    assert failed.error == error
    cancelling, _ = then(job, StateChange(JobState.RUNNING, JobState.CANCELLING, 1, "a better one exists"))
    cancelled, _ = then(cancelling, StateChange(JobState.CANCELLING, JobState.CANCELLED, 1, "worker gone"))
    assert cancelled.cancel_reason == "a better one exists"


def test_an_event_out_of_turn_is_refused() -> None:
    job, _ = queued(1)
    for sequence in (1, 3):
        with pytest.raises(ValueError, match=f"event {sequence} cannot follow event 1"):
            job.after(JobEvent(sequence, 0.0, progress(1)))
    with pytest.raises(IllegalTransition):
        then(job, JobState.COMPLETED)


def test_the_queue_key_puts_priority_before_submission() -> None:
    jobs = [submitted(1), submitted(2, priority=5), submitted(3, priority=5), submitted(4, priority=-1)]
    assert [job.order for job in sorted(jobs, key=lambda job: job.queue_key)] == [2, 3, 1, 4]


def test_a_merge_takes_one_slot_and_an_evaluation_as_many_as_it_asks_for() -> None:
    assert submitted(1, spec=spec(num_gpus=4)).slots_needed == 4
    merge = submitted(2, spec=MergeSpec("checkpoint"))
    assert (merge.slots_needed, merge.kind) == (1, JobKind.MERGE)

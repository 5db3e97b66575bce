"""What administrators do, over the wire: pausing, draining, moving jobs, collecting garbage."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lmms_eval_grpc.client import AsyncEvalClient, InvalidRequest, JobNotFound, JobNotQueued, QueuePaused
from lmms_eval_grpc.v1 import admin_service_pb2 as pb
from lmms_eval_grpc.v1 import admin_service_pb2_grpc, job_pb2
from lmms_eval_grpc.v1 import evaluation_service_pb2 as evaluation
from tests.scheduler.doubles import PATIENCE, until
from tests.server.conftest import NewRig, Rig, detail, failure, following, violations


def admin(rig: Rig) -> Any:
    return admin_service_pb2_grpc.AdminServiceStub(rig.channel)


async def test_a_pause_is_seen_by_all_who_look_at_the_queue_and_ends_with_a_resumption(new_rig: NewRig) -> None:
    rig = await new_rig()
    watch = rig.stub.WatchQueue(evaluation.WatchQueueRequest())
    told = following(watch)
    assert not (await anext(told)).snapshot.paused
    paused = (await admin(rig).PauseQueue(pb.PauseQueueRequest(reason="maintenance"))).queue
    assert (paused.paused, paused.pause_reason, paused.accepting) == (True, "maintenance", True)
    snapshot = (await anext(told)).snapshot
    assert (snapshot.paused, snapshot.pause_reason) == (True, "maintenance")
    job = await rig.submit()
    change = (await anext(told)).change
    assert (change.job_id, change.revision) == (job.job_id, snapshot.revision + 1)
    await rig.server.stop(0)
    rig = await new_rig()
    queue = (await rig.stub.QueueStatus(evaluation.QueueStatusRequest())).queue
    assert (queue.paused, queue.pause_reason, list(queue.queued_job_ids)) == (True, "maintenance", [job.job_id])
    resumed = (await admin(rig).ResumeQueue(pb.ResumeQueueRequest())).queue
    assert (resumed.paused, resumed.pause_reason) == (False, "")
    await rig.executor.execution(job.job_id)


async def test_the_answer_to_a_resumption_has_the_job_in_one_place(rig: Rig) -> None:
    for _ in range(5):
        await admin(rig).PauseQueue(pb.PauseQueueRequest())
        job = await rig.submit()
        queue = (await admin(rig).ResumeQueue(pb.ResumeQueueRequest())).queue
        waits, runs = [job.job_id] == list(queue.queued_job_ids), [job.job_id] == list(queue.running_job_ids)
        assert waits != runs
        assert [slot.job_id for slot in queue.slots] == [job.job_id if runs else ""]
        (await rig.executor.execution(job.job_id)).complete()
        await rig.ended(job.job_id)


async def test_both_clients_have_the_administrators_methods(rig: Rig) -> None:
    running, execution = await rig.running()
    first, second = (await rig.submit()).job_id, (await rig.submit()).job_id
    async with AsyncEvalClient(rig.server.address) as client:
        moved = await client.set_priority(second, 3)
        assert (moved.job_id, moved.priority, moved.queue_position) == (second, 3, 0)
        with pytest.raises(JobNotQueued, match="it is running"):
            await client.set_priority(running, 3)
        with pytest.raises(JobNotFound):
            await client.set_priority("nothing", 3)
        with pytest.raises(InvalidRequest, match="priority"):
            await client.set_priority(first, 10**12)
        queue = await client.pause_queue("later")
        assert list(queue.queued_job_ids) == [second, first]
        assert (await client.get_queue_status())["pause_reason"] == "later"
        with pytest.raises(QueuePaused, match="later"):
            await client.drain(finish_queued=True)
        execution.complete()
        await rig.ended(running)
        assert list((await client.collect_garbage(keep=0, dry_run=True)).job_ids) == [running]
        assert list((await client.collect_garbage(older_than=3600)).job_ids) == []
        assert list((await client.collect_garbage(keep=0)).job_ids) == [running]
        with pytest.raises(JobNotFound):
            await client.get(running)
        await client.resume_queue()
        await rig.executor.execution(second)


async def test_what_cannot_be_done_is_told_with_details(rig: Rig) -> None:
    running, _ = await rig.running()
    waiting = (await rig.submit()).job_id
    error = await failure(admin(rig).SetJobPriority(pb.SetJobPriorityRequest(job_id=running, priority=1)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert detail(error, "ErrorInfo").reason == "JOB_NOT_QUEUED"
    assert dict(detail(error, "ErrorInfo").metadata) == {"job_id": running, "state": "running"}
    (violation,) = detail(error, "PreconditionFailure").violations
    assert (violation.type, violation.subject) == ("JOB_QUEUED", f"jobs/{running}")
    error = await failure(admin(rig).SetJobPriority(pb.SetJobPriorityRequest(job_id="none")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    error = await failure(admin(rig).SetJobPriority(pb.SetJobPriorityRequest(priority=1)))
    assert "job_id" in violations(error)
    too_much = pb.SetJobPriorityRequest(job_id=waiting, priority=2**31 - 1)
    assert "is not between" in violations(await failure(admin(rig).SetJobPriority(too_much)))["priority"]
    error = await failure(admin(rig).PauseQueue(pb.PauseQueueRequest(reason="x" * 1025)))
    assert "1025 characters" in violations(error)["reason"]
    error = await failure(admin(rig).CollectGarbage(pb.CollectGarbageRequest(keep=-1)))
    assert "-1 is negative" in violations(error)["keep"]
    error = await failure(admin(rig).CollectGarbage(pb.CollectGarbageRequest(older_than=Duration(seconds=-5))))
    assert "negative" in violations(error)["older_than"]
    error = await failure(admin(rig).Drain(pb.DrainRequest(timeout=Duration(seconds=-5))))
    assert "negative" in violations(error)["timeout"]
    assert not (await rig.stub.QueueStatus(evaluation.QueueStatusRequest())).queue.draining


async def test_a_drained_server_stops_when_its_running_jobs_have_ended(new_rig: NewRig) -> None:
    rig = await new_rig()
    running, execution = await rig.running()
    waiting = (await rig.submit()).job_id
    told = following(rig.stub.WatchQueue(evaluation.WatchQueueRequest()))
    await anext(told)
    queue = (await admin(rig).Drain(pb.DrainRequest())).queue
    assert (queue.draining, queue.accepting) == (True, False)
    assert (await anext(told)).snapshot.draining
    error = await failure(rig.stub.Evaluate(evaluation.EvaluateRequest(spec=rig.spec())))
    assert detail(error, "ErrorInfo").reason == "NOT_ACCEPTING"
    health = health_pb2_grpc.HealthStub(rig.channel)
    ready = health_pb2.HealthCheckRequest(service="lmms_eval_grpc.v1.EvaluationService")
    assert (await health.Check(ready)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await rig.get(running)).state == job_pb2.JOB_STATE_RUNNING
    execution.complete()
    async with asyncio.timeout(PATIENCE):
        await rig.server.wait_closed()
    rig = await new_rig()
    assert (await rig.get(running)).state == job_pb2.JOB_STATE_COMPLETED
    await rig.executor.execution(waiting)


async def test_a_drain_finishes_the_queue_when_it_is_asked_to(new_rig: NewRig) -> None:
    rig = await new_rig()
    jobs = [(await rig.submit()).job_id for _ in range(3)]
    await admin(rig).Drain(pb.DrainRequest(finish_queued=True))
    for job_id in jobs:
        (await rig.executor.execution(job_id)).complete()
    async with asyncio.timeout(PATIENCE):
        await rig.server.wait_closed()
    rig = await new_rig()
    assert {(await rig.get(job_id)).state for job_id in jobs} == {job_pb2.JOB_STATE_COMPLETED}


@pytest.mark.parametrize("stricter", ["a shorter drain", "a stop"])
async def test_a_drain_that_takes_too_long_is_cut_short(new_rig: NewRig, stricter: str) -> None:
    rig = await new_rig()
    running, _ = await rig.running()
    await admin(rig).Drain(pb.DrainRequest(finish_queued=True))
    assert not rig.server._closed.is_set()
    async with asyncio.timeout(PATIENCE):
        if stricter == "a stop":
            await rig.server.stop(0)
        else:
            await admin(rig).Drain(pb.DrainRequest(timeout=Duration(nanos=1)))
        await rig.server.wait_closed()
    rig = await new_rig()
    await rig.executor.execution(running, attempt=2)


async def test_a_drain_of_an_idle_server_is_answered_before_it_stops(rig: Rig) -> None:
    queue = (await admin(rig).Drain(pb.DrainRequest())).queue
    assert queue.draining
    await until(lambda: rig.server._closed.is_set())

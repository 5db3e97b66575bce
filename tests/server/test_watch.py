"""What a careful follower of a job or of the queue may rely on."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from lmms_eval_grpc.jobs.errors import NotAccepting
from lmms_eval_grpc.jobs.events import Completed, JobEvent
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.server import watch
from lmms_eval_grpc.store.sqlite import SqliteStore
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as pb_grpc
from lmms_eval_grpc.v1 import job_pb2
from tests.jobs.examples import progress, result, submitted, task_result
from tests.scheduler.doubles import PATIENCE, ScriptedExecution, until
from tests.server.conftest import NewRig, Rig, detail, failure, following, states


async def test_a_watch_begins_with_a_snapshot_and_ends_after_the_last_event(rig: Rig) -> None:
    job_id, execution = await rig.running()
    told = []
    async for message in rig.watch(job_id):
        told.append(message)
        if len(told) == 1:
            execution.tell(task_result("a"), progress(5), task_result("b"))
            execution.complete()
    snapshot, *events = told
    assert snapshot.snapshot.state == job_pb2.JOB_STATE_RUNNING
    assert all(message.HasField("event") for message in events)
    sequences = [snapshot.snapshot.sequence, *(message.event.sequence for message in events)]
    assert sequences == sorted(set(sequences))
    assert [m.event.task_result.task for m in events if m.event.HasField("task_result")] == ["a", "b"]
    assert states(told) == ["COMPLETED"]
    assert told[-1].event.state_change.state == job_pb2.JOB_STATE_COMPLETED


async def test_after_sequence_gives_exactly_the_events_after_it(rig: Rig) -> None:
    job_id, execution = await rig.running()
    execution.tell(task_result("a"), task_result("b"))
    execution.complete()
    everything = [message async for message in rig.watch(job_id, after_sequence=0)]
    assert [message.event.sequence for message in everything] == [1, 2, 3, 4, 5]
    assert states(everything) == ["QUEUED", "RUNNING", "COMPLETED"]
    later = [message async for message in rig.watch(job_id, after_sequence=3)]
    assert later == everything[3:]
    assert [message async for message in rig.watch(job_id, after_sequence=5)] == []


async def test_a_watch_of_a_job_that_has_ended_is_its_snapshot(rig: Rig) -> None:
    job_id, execution = await rig.running()
    execution.complete()
    await rig.ended(job_id)
    (message,) = [message async for message in rig.watch(job_id)]
    assert message.snapshot.evaluation_result.task_results
    (basic,) = [message async for message in rig.watch(job_id, view=job_pb2.JOB_VIEW_BASIC)]
    assert not basic.snapshot.task_results


async def test_a_negative_sequence_is_refused(rig: Rig) -> None:
    job = await rig.submit()
    error = await failure(rig.stub.WatchJob(pb.WatchJobRequest(job_id=job.job_id, after_sequence=-1)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_reconnecting_all_the_time_loses_nothing_and_repeats_nothing(rig: Rig) -> None:
    job_id, execution = await rig.running()
    names = [f"task-{number}" for number in range(40)]
    choice = random.Random(7)

    async def work() -> None:
        for done, name in enumerate(names):
            execution.tell(progress(done), task_result(name))
            await asyncio.sleep(choice.random() * 0.01)
        execution.tell(progress(40), Completed(result(*names)))

    working = asyncio.create_task(work())
    seen: list[job_pb2.JobEvent] = []
    connections = 0
    while not (seen and seen[-1].state_change.state == job_pb2.JOB_STATE_COMPLETED):
        connections += 1
        patience = choice.randrange(1, 4)
        async with grpc.aio.insecure_channel(rig.server.address) as channel:
            call = pb_grpc.EvaluationServiceStub(channel).WatchJob(
                pb.WatchJobRequest(job_id=job_id, after_sequence=seen[-1].sequence if seen else 0)
            )
            received = 0
            async for message in following(call):
                seen.append(message.event)
                received += 1
                if received == patience:
                    break
    await working
    assert connections >= 10
    sequences = [event.sequence for event in seen]
    assert sequences == sorted(set(sequences))
    assert [event.task_result.task for event in seen if event.HasField("task_result")] == names
    changes = [event.state_change.state for event in seen if event.HasField("state_change")]
    assert changes == [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_COMPLETED]
    kept = {event.sequence for event in seen if not event.HasField("progress")}
    gaps = set(range(1, sequences[-1] + 1)) - set(sequences)
    assert not gaps & kept


async def test_a_watcher_that_never_reads_delays_nobody(rig: Rig) -> None:
    job_id, execution = await rig.running()
    stalled = grpc.aio.insecure_channel(
        rig.server.address, options=[("grpc.http2.lookahead_bytes", 0), ("grpc.http2.bdp_probe", 0)]
    )
    unread = pb_grpc.EvaluationServiceStub(stalled).WatchJob(pb.WatchJobRequest(job_id=job_id, after_sequence=0))
    reader = asyncio.create_task(_read_all(rig, job_id))
    # Far more than the buffers of a connection hold.
    names = [f"{number}-{'x' * 1_000_000}" for number in range(12)]
    for name in names:
        execution.tell(task_result(name))
    execution.complete()
    async with asyncio.timeout(PATIENCE):
        told = await reader
    assert [m.event.task_result.task for m in told if m.event.HasField("task_result")] == names
    assert (await rig.get(job_id, view=job_pb2.JOB_VIEW_BASIC)).state == job_pb2.JOB_STATE_COMPLETED
    assert not unread.done()
    await stalled.close()


async def _read_all(rig: Rig, job_id: str) -> list[pb.WatchJobResponse]:
    return [message async for message in rig.watch(job_id, after_sequence=0)]


async def test_progress_of_a_hundred_reports_is_told_a_few_times_with_the_last_one(rig: Rig) -> None:
    job_id, execution = await rig.running()
    reader = asyncio.create_task(_read_all(rig, job_id))
    for done in range(1, 101):
        execution.tell(progress(done))
    execution.complete()
    told = [m.event.progress.samples_done for m in await reader if m.event.HasField("progress")]
    assert told[-1] == 100
    assert len(told) < 20


async def test_a_silent_watch_sends_heartbeats(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SHORTEST_HEARTBEAT", 0.02)
    job_id, _ = await rig.running()
    request = pb.WatchJobRequest(job_id=job_id)
    request.heartbeat_interval.FromMilliseconds(1)
    heartbeats = []
    async for message in following(rig.stub.WatchJob(request)):
        if message.HasField("heartbeat"):
            heartbeats.append(message.heartbeat)
        if len(heartbeats) == 3:
            break
    assert {heartbeat.sequence for heartbeat in heartbeats} == {2}
    times = [heartbeat.server_time.ToNanoseconds() for heartbeat in heartbeats]
    assert times == sorted(times)
    assert times[1] - times[0] >= 15_000_000


class Sink:
    """The writing side of a watcher's call, on which a write takes a few steps of the event loop."""

    def __init__(self) -> None:
        self.busy = self.most = self.heartbeats = 0

    async def write(self, message: pb.WatchJobResponse | bytes) -> None:
        self.busy += 1
        self.most = max(self.most, self.busy)
        for _ in range(3):
            await asyncio.sleep(0)
        self.busy -= 1
        if isinstance(message, pb.WatchJobResponse):
            self.heartbeats += message.HasField("heartbeat")


async def test_many_heartbeats_that_are_due_at_once_are_not_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SHORTEST_HEARTBEAT", 0.5)
    store = SqliteStore(tmp_path / "jobs.sqlite3")
    await store.open()
    journal = Journal(store)
    job = await journal.create(submitted(1))
    request = pb.WatchJobRequest(job_id=job.job_id, after_sequence=1)
    request.heartbeat_interval.FromMilliseconds(1)
    nobody: Any = None  # only snapshots ask the scheduler
    sink: Any = Sink()
    watching = [asyncio.create_task(watch.watch_job(request, sink, journal, nobody)) for _ in range(1000)]
    await until(lambda: sink.heartbeats >= 1000)
    assert sink.most < 500
    journal.close()
    endings = await asyncio.gather(*watching, return_exceptions=True)
    assert all(isinstance(ending, NotAccepting) for ending in endings)
    await store.close()


@pytest.mark.parametrize(("asked", "taken"), [(None, 15.0), (0.001, 1.0), (-5.0, 1.0), (20.0, 20.0), (1e6, 300.0)])
def test_the_heartbeat_interval_is_bounded(asked: float | None, taken: float) -> None:
    request = pb.WatchJobRequest()
    if asked is None:
        assert watch._heartbeat_interval(None) == taken
        return
    request.heartbeat_interval.FromMicroseconds(round(asked * 1e6))
    assert watch._heartbeat_interval(request.heartbeat_interval) == taken


async def test_a_stopping_server_sends_watchers_away_with_a_time_to_come_back(rig: Rig) -> None:
    job_id, _ = await rig.running()
    calls = [
        rig.stub.WatchJob(pb.WatchJobRequest(job_id=job_id)),
        rig.stub.WatchQueue(pb.WatchQueueRequest()),
        rig.stub.StreamLogs(pb.StreamLogsRequest(job_id=job_id, follow=True)),
        rig.stub.StreamSamples(pb.StreamSamplesRequest(job_id=job_id, follow=True)),
    ]
    assert (await calls[0].read()).HasField("snapshot")
    assert (await calls[1].read()).HasField("snapshot")
    endings = [asyncio.create_task(failure(call)) for call in calls]
    await asyncio.sleep(0.05)
    await rig.server.stop(0.1)
    for error in await asyncio.gather(*endings):
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert detail(error, "ErrorInfo").reason == "NOT_ACCEPTING"
        assert detail(error, "RetryInfo").retry_delay.ToMilliseconds() > 0


@pytest.mark.parametrize(
    ("limits", "scope"),
    [({"max_watches": 2}, "the server"), ({"max_watches": 9, "max_watches_per_client": 2}, "this client")],
)
async def test_watches_are_capped_per_client_and_in_total(new_rig: NewRig, limits: dict[str, int], scope: str) -> None:
    rig = await new_rig(**limits)
    job_id, _ = await rig.running()
    first, second = (rig.stub.WatchJob(pb.WatchJobRequest(job_id=job_id)) for _ in range(2))
    for call in (first, second):
        await call.read()
    # Another connection of the same client.
    async with grpc.aio.insecure_channel(rig.server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as other:
        stub = pb_grpc.EvaluationServiceStub(other)
        error = await failure(stub.WatchQueue(pb.WatchQueueRequest()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert detail(error, "ErrorInfo").reason == "TOO_MANY_WATCHES"
        assert detail(error, "QuotaFailure").violations[0].subject == scope
        assert detail(error, "RetryInfo").retry_delay.ToMilliseconds() > 0
        assert (await rig.get(job_id)).job_id == job_id
        second.cancel()
        await _admitted(stub)


async def _admitted(stub: pb_grpc.EvaluationServiceStub) -> None:
    """Waits until there is room for one more watch: the end of another takes a moment to reach the server."""
    async with asyncio.timeout(PATIENCE):
        while True:
            call = stub.WatchQueue(pb.WatchQueueRequest())
            try:
                assert (await call.read()).HasField("snapshot")
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
            finally:
                call.cancel()


async def test_a_client_that_vanishes_is_no_error_and_leaves_its_place(
    new_rig: NewRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await new_rig(max_watches=1)
    job_id, execution = await rig.running()
    for _ in range(3):
        channel = grpc.aio.insecure_channel(rig.server.address)
        stub = pb_grpc.EvaluationServiceStub(channel)
        await _admitted(stub)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await stub.WatchJob(pb.WatchJobRequest(job_id=job_id)).read()
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)
        await channel.close()
        execution.tell(task_result("a"))
    execution.complete()
    log = await rig.server._journal.log(job_id)
    await until(lambda: log.job.state.ended)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


async def test_the_queue_is_followed_from_a_snapshot_by_changes(rig: Rig) -> None:
    call = rig.stub.WatchQueue(pb.WatchQueueRequest())
    messages = following(call)
    first = await anext(messages)
    assert first.snapshot.accepting
    job_id, execution = await rig.running()
    execution.complete()
    changes = [(await anext(messages)).change for _ in range(3)]
    assert {change.job_id for change in changes} == {job_id}
    assert [job_pb2.JobState.Name(change.state) for change in changes] == [
        "JOB_STATE_QUEUED",
        "JOB_STATE_RUNNING",
        "JOB_STATE_COMPLETED",
    ]
    assert [change.previous_state for change in changes] == [
        job_pb2.JOB_STATE_UNSPECIFIED,
        job_pb2.JOB_STATE_QUEUED,
        job_pb2.JOB_STATE_RUNNING,
    ]
    assert [change.revision for change in changes] == [first.snapshot.revision + n for n in (1, 2, 3)]
    await messages.aclose()


async def test_a_follower_of_the_queue_that_fell_behind_gets_a_new_snapshot(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = rig.server._scheduler.queue_changes
    messages = following(rig.stub.WatchQueue(pb.WatchQueueRequest()))
    await anext(messages)
    monkeypatch.setattr(type(feed), "after", lambda self, revision: None if revision < self.revision else [])
    job = await rig.submit()
    while not (message := await anext(messages)).HasField("snapshot"):
        pass
    assert job.job_id in (*message.snapshot.queued_job_ids, *message.snapshot.running_job_ids)
    await messages.aclose()


async def test_a_thousand_watchers_all_learn_of_the_end(rig: Rig) -> None:
    job_id, execution = await rig.running()
    channels = [grpc.aio.insecure_channel(rig.server.address, options=[("n", n)]) for n in range(4)]
    stubs = [pb_grpc.EvaluationServiceStub(channel) for channel in channels]
    calls = [stubs[n % 4].WatchJob(pb.WatchJobRequest(job_id=job_id)) for n in range(1000)]
    async with asyncio.timeout(4 * PATIENCE):
        for call in calls:
            await call.read()
        execution.complete()
        ends = await asyncio.gather(*(_last(call) for call in calls))
    assert set(ends) == {job_pb2.JOB_STATE_COMPLETED}
    for channel in channels:
        await channel.close()


async def _last(call: grpc.aio.UnaryStreamCall[pb.WatchJobRequest, pb.WatchJobResponse]) -> int:
    last = 0
    async for message in following(call):
        last = message.event.state_change.state or last
    return last


async def test_a_running_job_may_be_watched_across_a_cancellation(rig: Rig) -> None:
    job_id, execution = await rig.running()
    reader = asyncio.create_task(_read_all(rig, job_id))
    await rig.stub.CancelJob(pb.CancelJobRequest(job_id=job_id, reason="enough"))
    told = await reader
    assert states(told) == ["QUEUED", "RUNNING", "CANCELLING", "CANCELLED"]
    assert told[2].event.state_change.reason == "enough"
    assert isinstance(execution, ScriptedExecution)
    await until(lambda: execution.gone)


def test_an_event_is_serialized_once_for_all_who_follow() -> None:
    messages = watch.EventMessages(kept=2, largest=10_000)
    events = [JobEvent(number, 1000.0 + number, task_result(f"task-{number}")) for number in range(1, 5)]
    first = messages.message("job", events[0])
    assert pb.WatchJobResponse.FromString(first).event.task_result.task == "task-1"
    assert messages.message("job", events[0]) is first
    for event in events:
        assert pb.WatchJobResponse.FromString(messages.message("job", event)).event.sequence == event.sequence
    assert len(messages._known) == 2
    large = JobEvent(9, 1009.0, task_result("x" * 10_000))
    assert messages.message("job", large) == messages.message("job", large)
    assert messages.message("job", large) is not messages.message("job", large)

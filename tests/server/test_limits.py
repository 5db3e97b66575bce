"""What one caller may take: jobs, submissions, streams, bytes and time."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from lmms_eval_grpc.jobs.errors import TooManyWatches
from lmms_eval_grpc.server import app, interceptors, streams
from lmms_eval_grpc.server.limits import Pacer, StreamLimits
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as pb_grpc
from tests.scheduler.doubles import FailingStore, until
from tests.server.conftest import Guarded, NewGuarded, NewRig, Rig, detail, failure, following
from tests.server.test_streams import append, logs, record, samples


def evaluate(guarded: Guarded, name: str, **fields: Any) -> Any:
    """A submission of ``name``, under way."""
    return guarded.stub.Evaluate(pb.EvaluateRequest(spec=guarded.rig.spec(), **fields), metadata=guarded.as_(name))


async def submit(guarded: Guarded, name: str, **fields: Any) -> str:
    response = await evaluate(guarded, name, **fields)
    assert response.job.owner == name
    return str(response.job.job_id)


async def refusal(guarded: Guarded, name: str, reason: str, **fields: Any) -> grpc.aio.AioRpcError:
    """The error of a submission that is over a limit, checked as far as all of them are alike."""
    error = await failure(evaluate(guarded, name, **fields))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(error, "ErrorInfo").reason == reason
    (violation,) = detail(error, "QuotaFailure").violations
    assert violation.subject == f"principal:{name}"
    assert violation.description == error.details()
    return error


async def ended(guarded: Guarded, job_id: str) -> None:
    """Returns once the job has ended."""
    call = guarded.stub.WatchJob(pb.WatchJobRequest(job_id=job_id), metadata=guarded.as_("rita"))
    async for _ in following(call):
        pass


async def test_a_principal_has_so_many_jobs_and_no_more(new_guarded: NewGuarded) -> None:
    guarded = await new_guarded(max_jobs_per_principal=2)
    key = str(uuid.uuid4())
    first = await submit(guarded, "alice", request_id=key)
    execution = await guarded.rig.executor.execution(first)
    second = await submit(guarded, "alice")
    error = await refusal(guarded, "alice", "TOO_MANY_JOBS")
    assert detail(error, "ErrorInfo").metadata == {"limit": "2"}
    assert detail(error, "RetryInfo").retry_delay.ToMilliseconds() > 0
    assert "cancel one" in str(error.details())
    # Others are not concerned, and what was accepted before is answered.
    await submit(guarded, "bob")
    assert await submit(guarded, "alice", request_id=key) == first
    await guarded.stub.CancelJob(pb.CancelJobRequest(job_id=second), metadata=guarded.as_("alice"))
    await submit(guarded, "alice")
    await refusal(guarded, "alice", "TOO_MANY_JOBS")
    execution.complete()
    await ended(guarded, first)
    await submit(guarded, "alice")


async def test_jobs_that_a_server_finds_at_its_start_count(new_guarded: NewGuarded) -> None:
    before = await new_guarded(max_jobs_per_principal=2)
    await before.rig.executor.execution(await submit(before, "alice"))
    await submit(before, "alice")
    await before.rig.server.stop(0)
    guarded = await new_guarded(max_jobs_per_principal=2)
    await refusal(guarded, "alice", "TOO_MANY_JOBS")
    await submit(guarded, "bob")


async def test_a_burst_gets_exactly_as_many_jobs_as_it_may(new_guarded: NewGuarded) -> None:
    guarded = await new_guarded(max_jobs_per_principal=5)
    guarded.rig.executor.hold = asyncio.Event()
    outcomes = await asyncio.gather(*(submit(guarded, "alice") for _ in range(20)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert len(refused) == 15
    assert {detail(error, "ErrorInfo").reason for error in refused} == {"TOO_MANY_JOBS"}
    guarded.rig.executor.hold.set()


async def test_a_principal_submits_so_fast_and_no_faster(new_guarded: NewGuarded) -> None:
    guarded = await new_guarded(max_submissions_per_minute=2)
    key = str(uuid.uuid4())
    first = await submit(guarded, "alice", request_id=key)
    # A repetition is no submission, neither is what is invalid or only checked.
    assert await submit(guarded, "alice", request_id=key) == first
    invalid = await failure(guarded.stub.Evaluate(pb.EvaluateRequest(), metadata=guarded.as_("alice")))
    assert invalid.code() is grpc.StatusCode.INVALID_ARGUMENT
    await evaluate(guarded, "alice", validate_only=True)
    await submit(guarded, "alice")
    error = await refusal(guarded, "alice", "TOO_MANY_SUBMISSIONS")
    assert detail(error, "ErrorInfo").metadata == {"limit_per_minute": "2"}
    assert 0 < detail(error, "RetryInfo").retry_delay.ToNanoseconds() <= 30e9
    assert await submit(guarded, "alice", request_id=key) == first
    await submit(guarded, "bob")


async def test_who_waits_as_long_as_told_is_taken(new_guarded: NewGuarded) -> None:
    guarded = await new_guarded(max_submissions_per_minute=20)
    refused = None
    for _ in range(400):
        try:
            await submit(guarded, "alice")
        except grpc.aio.AioRpcError as error:
            refused = error
            break
    assert refused is not None
    await asyncio.sleep(detail(refused, "RetryInfo").retry_delay.ToNanoseconds() / 1e9)
    await submit(guarded, "alice")


async def test_a_principal_has_so_many_streams_over_all_its_connections(new_guarded: NewGuarded) -> None:
    guarded = await new_guarded(max_watches_per_principal=2)
    watching = [guarded.stub.WatchQueue(pb.WatchQueueRequest(), metadata=guarded.as_("alice")) for _ in range(2)]
    for call in watching:
        await call.read()
    async with grpc.aio.insecure_channel(
        guarded.rig.server.address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as other:
        stub: Any = pb_grpc.EvaluationServiceStub(other)
        error = await failure(stub.WatchQueue(pb.WatchQueueRequest(), metadata=guarded.as_("alice")))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert detail(error, "ErrorInfo").reason == "TOO_MANY_WATCHES"
        assert detail(error, "QuotaFailure").violations[0].subject == "principal alice"
        await stub.WatchQueue(pb.WatchQueueRequest(), metadata=guarded.as_("bob")).read()


async def test_strangers_take_no_streams_from_those_who_may_watch(
    new_guarded: NewGuarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "OPEN_TO_ALL", 2)
    guarded = await new_guarded(max_watches=1)
    health = health_pb2_grpc.HealthStub(guarded.rig.channel)
    watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
    for call in watching:
        await call.read()
    error = await failure(health.Watch(health_pb2.HealthCheckRequest()))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(error, "ErrorInfo").reason == "TOO_MANY_WATCHES"
    await guarded.stub.WatchQueue(pb.WatchQueueRequest(), metadata=guarded.as_("rita")).read()


def test_of_streams_that_are_over_nothing_is_kept() -> None:
    held = StreamLimits(10, 10, 2)
    for number in range(1000):
        with held.hold(f"ipv4:10.0.0.{number}", f"p{number}"), held.hold("ipv4:1.1.1.1", f"p{number}"):
            with pytest.raises(TooManyWatches), held.hold("ipv4:1.1.1.1", f"p{number}"):
                pass
            assert (len(held._clients), len(held._principals)) == (2, 1)
    assert (len(held._clients), len(held._principals), held._total) == (0, 0, 0)


async def test_a_log_is_sent_no_faster_than_it_may_be(new_rig: NewRig) -> None:
    rate = 64 * 1024
    rig = await new_rig(max_stream_bytes_per_second=rate)
    job_id, execution = await rig.running()
    text = "".join(f"line {number:9d}\n" for number in range(3 * rate // 15))
    (rig.job_dir(job_id) / "worker.log").write_text(text)
    began = time.monotonic()
    told = await logs(rig, job_id)
    taken = time.monotonic() - began
    assert "".join(message.text for message in told) == text
    assert max(message.ByteSize() for message in told) <= rate + 64
    # The first message comes at once, each other one a second's worth later.
    assert taken >= (len(text) - len(told[0].text)) / rate - len(told[-1].text) / rate
    assert taken >= 1
    execution.complete()


async def test_samples_are_sent_no_faster_than_they_may_be(new_rig: NewRig) -> None:
    rate = 64 * 1024
    rig = await new_rig(max_stream_bytes_per_second=rate)
    job_id, _ = await rig.running()
    append(rig.job_dir(job_id), *(record(n, prompt="x" * 30_000) for n in range(7)))
    began = time.monotonic()
    told = await samples(rig, job_id)
    assert [sample.doc_id for message in told for sample in message.samples] == list(range(7))
    assert time.monotonic() - began >= sum(message.ByteSize() for message in told[:-1]) / rate - 0.01


async def test_a_paced_stream_is_sent_away_by_a_server_that_stops(new_rig: NewRig) -> None:
    rig = await new_rig(max_stream_bytes_per_second=1024)
    job_id, _ = await rig.running()
    (rig.job_dir(job_id) / "worker.log").write_text("x" * 1_000_000)
    call = rig.stub.StreamLogs(pb.StreamLogsRequest(job_id=job_id))
    await call.read()
    reading = asyncio.create_task(failure(call))
    await asyncio.sleep(0.05)
    rig.server._journal.close()
    error = await reading
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(error, "ErrorInfo").reason == "NOT_ACCEPTING"


async def test_no_message_of_samples_is_larger_than_a_mebibyte(rig: Rig) -> None:
    job_id, _ = await rig.running()
    scores = {f"m{number}": 1 for number in range(40_000)}
    append(
        rig.job_dir(job_id),
        record(0, prompt="é" * 3_000_000, responses=("y" * 1000,), filtered_responses=("short",)),
        record(1, responses=tuple("abc" for _ in range(600_000)), filtered_responses=()),
        record(2, scores=scores | {"verdict": {"label": "good"}}),
        record(3, scores={f"metric {number}": number / 7 for number in range(100_000)}),
        *(record(4 + n, scores=dict(itertools.islice(scores.items(), 9_000))) for n in range(8)),
    )
    told = await samples(rig, job_id)
    assert all(message.ByteSize() <= streams.MAX_MESSAGE_BYTES for message in told)
    kept = [sample for message in told for sample in message.samples]
    assert [sample.doc_id for sample in kept] == list(range(12))
    long, many, judged, crowded, *ordinary = kept
    assert long.prompt.startswith("é" * 400_000)
    assert long.prompt.endswith(f"({3_000_000 - long.prompt.count('é')} more characters)")
    assert list(long.responses) == ["y" * 1000]
    assert list(long.filtered_responses) == ["short"]
    assert many.responses == ["… (600000 texts, too many to send)"]
    assert len(judged.scores) == 40_000
    assert not crowded.scores
    assert "100000 scores, too many to send" in crowded.error
    assert all(len(sample.scores) == 9_000 for sample in ordinary)
    # From each message on, the rest comes as it came.
    for position, message in enumerate(told):
        assert await samples(rig, job_id, after_cursor=message.next_cursor) == told[position + 1 :]


async def test_a_call_that_takes_too_long_is_cut_off_and_loses_no_job(
    new_guarded: NewGuarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SqliteStore", FailingStore)
    guarded = await new_guarded(unary_timeout=3.0, max_jobs_per_principal=1)
    server = guarded.rig.server
    store: Any = server._journal._store
    store.gate = asyncio.Event()
    key = str(uuid.uuid4())
    error = await failure(evaluate(guarded, "alice", request_id=key))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert detail(error, "ErrorInfo").reason == "CALL_TIMED_OUT"
    assert detail(error, "ErrorInfo").metadata == {"seconds": "3"}
    assert "same request_id" in str(error.details())
    assert not (await guarded.stub.ListJobs(pb.ListJobsRequest(), metadata=guarded.as_("alice"))).jobs
    store.gate.set()
    # What had begun is carried to its end, and the caller finds it.
    await until(lambda: bool(server._scheduler.queue().queued or server._scheduler.queue().running))
    (job,) = (await guarded.stub.ListJobs(pb.ListJobsRequest(), metadata=guarded.as_("alice"))).jobs
    assert await submit(guarded, "alice", request_id=key) == job.job_id
    await refusal(guarded, "alice", "TOO_MANY_JOBS")


async def test_streams_are_not_cut_off(new_rig: NewRig) -> None:
    rig = await new_rig(unary_timeout=0.5)
    call = rig.stub.WatchQueue(pb.WatchQueueRequest(heartbeat_interval={"seconds": 1}))  # type: ignore[arg-type]
    told = []
    async for message in following(call):
        told.append(message)
        if len(told) == 3:
            break
    assert [message.WhichOneof("message") for message in told] == ["snapshot", "heartbeat", "heartbeat"]


@given(rate=st.integers(1024, 10**9), sizes=st.lists(st.integers(1, 2**20), max_size=20))
def test_a_stream_never_has_more_than_its_rate_allows(rate: int, sizes: list[int]) -> None:
    now = 100.0
    pacer = Pacer(rate, lambda: now)
    sent = 0
    for size in sizes:
        now += pacer.wait()
        assert sent <= (now - 100.0) * rate * (1 + 1e-9) + 1e-3
        assert pacer.bound(size) <= max(rate, 4096)
        pacer.sent(size)
        sent += size
    assert Pacer(None).wait() == 0


async def test_the_server_tells_its_limits(new_rig: NewRig) -> None:
    rig = await new_rig(
        max_jobs_per_principal=11,
        max_submissions_per_minute=12,
        max_watches_per_principal=13,
        max_stream_bytes_per_second=14_000,
    )
    told = (await rig.stub.GetServerInfo(pb.GetServerInfoRequest())).server.limits
    assert (told.max_jobs_per_principal, told.max_submissions_per_minute) == (11, 12)
    assert (told.max_watches_per_principal, told.max_stream_bytes_per_second) == (13, 14_000)
    boundless = await new_rig(state_dir=rig.checkpoint.parent / "other")
    told = (await boundless.stub.GetServerInfo(pb.GetServerInfoRequest())).server.limits
    assert (told.max_jobs_per_principal, told.max_stream_bytes_per_second) == (0, 0)

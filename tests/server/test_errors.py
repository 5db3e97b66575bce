"""Every row of the table of errors: its code, its reason, its details."""

from __future__ import annotations

import asyncio
import base64
import logging
import sqlite3
import urllib.parse
import uuid
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from lmms_eval_grpc.jobs import errors as domain
from lmms_eval_grpc.jobs.errors import InvalidRequest, StoreUnavailable, Violation
from lmms_eval_grpc.scheduler import Scheduler
from lmms_eval_grpc.server.errors import MAX_WIRE_BYTES, TABLE, Status, status_of
from lmms_eval_grpc.server.interceptors import MaskErrors
from lmms_eval_grpc.server.observe import Call, ObserveCalls
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from tests.server.conftest import NewRig, Rig, detail, failure, status, violations


def subclasses(kind: type[Any]) -> set[type[Any]]:
    return {kind for child in kind.__subclasses__() for kind in (child, *subclasses(child))}


def test_every_domain_error_has_a_row() -> None:
    assert subclasses(domain.ServiceError) == set(TABLE)


def test_reasons_are_unique() -> None:
    assert len({row.reason for row in TABLE.values()}) == len(TABLE)


async def test_an_unknown_job_is_not_found_by_every_method(rig: Rig) -> None:
    for call in (
        rig.stub.GetJob(pb.GetJobRequest(job_id="nope")),
        rig.stub.CancelJob(pb.CancelJobRequest(job_id="nope")),
        rig.stub.WatchJob(pb.WatchJobRequest(job_id="nope")),
        rig.stub.StreamSamples(pb.StreamSamplesRequest(job_id="nope")),
        rig.stub.StreamLogs(pb.StreamLogsRequest(job_id="nope")),
    ):
        error = await failure(call)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        info = detail(error, "ErrorInfo")
        assert (info.reason, info.domain) == ("JOB_NOT_FOUND", "lmms-eval-grpc")
        assert info.metadata["job_id"] == "nope"
        assert detail(error, "ResourceInfo").resource_name == "nope"
        assert status(error).code == grpc.StatusCode.NOT_FOUND.value[0]
        assert status(error).message == error.details()


async def test_a_job_that_this_release_cannot_read_is_lost_data_to_it(rig: Rig) -> None:
    job_id, execution = await rig.running()
    execution.complete()
    await rig.ended(job_id)
    other = await rig.submit()
    store = rig.server.state_dir / "jobs.sqlite3"
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE jobs SET job = replace(job, '\"completed\"', '\"dreaming\"')")
    connection.close()
    with rig.server._journal.withdraw([job_id]):
        pass  # It is out of memory now, as after a restart.
    error = await failure(rig.stub.GetJob(pb.GetJobRequest(job_id=job_id)))
    assert error.code() is grpc.StatusCode.DATA_LOSS
    assert detail(error, "ErrorInfo").reason == "JOB_UNREADABLE"
    assert detail(error, "ErrorInfo").metadata["job_id"] == job_id
    assert "release that wrote it" in str(error.details())
    listed = await rig.stub.ListJobs(pb.ListJobsRequest())
    assert [job.job_id for job in listed.jobs] == [other.job_id]


async def test_a_missing_job_id_is_an_invalid_argument(rig: Rig) -> None:
    for call in (rig.stub.GetJob(pb.GetJobRequest()), rig.stub.WatchJob(pb.WatchJobRequest())):
        assert set(violations(await failure(call))) == {"job_id"}


async def test_a_request_id_with_another_payload_already_exists(rig: Rig) -> None:
    key = str(uuid.uuid4())
    first = await rig.submit(request_id=key)
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=rig.spec(offset=1), request_id=key)))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    info = detail(error, "ErrorInfo")
    assert info.reason == "REQUEST_ID_CONFLICT"
    assert info.metadata == {"request_id": key, "job_id": first.job_id}


async def test_a_full_queue_exhausts_resources_and_says_when_to_retry(new_rig: NewRig) -> None:
    rig = await new_rig(max_queued_jobs=1)
    await rig.running()
    await rig.submit()
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=rig.spec())))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(error, "ErrorInfo").reason == "QUEUE_FULL"
    assert detail(error, "ErrorInfo").metadata["capacity"] == "1"
    assert detail(error, "QuotaFailure").violations
    assert detail(error, "RetryInfo").retry_delay.ToMilliseconds() > 0


async def test_samples_that_were_not_logged_fail_a_precondition(rig: Rig) -> None:
    job = await rig.submit(spec=rig.spec(log_samples=False))
    error = await failure(rig.stub.StreamSamples(pb.StreamSamplesRequest(job_id=job.job_id)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert detail(error, "ErrorInfo").reason == "SAMPLES_NOT_LOGGED"
    assert detail(error, "PreconditionFailure").violations[0].subject == f"jobs/{job.job_id}"


async def test_a_watch_ahead_of_the_log_is_out_of_range(rig: Rig) -> None:
    job = await rig.submit()
    error = await failure(rig.stub.WatchJob(pb.WatchJobRequest(job_id=job.job_id, after_sequence=99)))
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    assert detail(error, "ErrorInfo").reason == "SEQUENCE_OUT_OF_RANGE"


async def test_a_store_that_cannot_be_written_is_unavailable_without_a_word_about_the_server(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("/secret/place/jobs.sqlite3: the disk is full")

    monkeypatch.setattr(Scheduler, "submit", refuse)
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=rig.spec())))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(error, "ErrorInfo").reason == "STORE_UNAVAILABLE"
    assert detail(error, "RetryInfo").retry_delay.ToMilliseconds() > 0
    assert "secret" not in str(status(error))
    assert "the disk is full" in caplog.text


async def test_a_bug_is_told_as_an_id_that_the_log_has_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise FileNotFoundError("/secret/place")

    monkeypatch.setattr(Scheduler, "cancel", fail)
    error = await failure(rig.stub.CancelJob(pb.CancelJobRequest(job_id="any")))
    assert error.code() is grpc.StatusCode.INTERNAL
    info = detail(error, "ErrorInfo")
    assert info.reason == "INTERNAL"
    assert "secret" not in str(status(error))
    assert "Traceback" not in str(status(error))
    (record,) = [record for record in caplog.records if info.metadata["error_id"] in record.getMessage()]
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


async def test_bytes_that_are_no_message_are_an_invalid_argument(rig: Rig) -> None:
    method = rig.channel.unary_unary("/lmms_eval_grpc.v1.EvaluationService/GetJob")
    error = await failure(method(b"\xff\xff\xff\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, "ErrorInfo").reason == "INVALID_REQUEST"


async def test_a_request_that_is_too_large_is_refused(new_rig: NewRig) -> None:
    rig = await new_rig(max_request_bytes=65_536)
    error = await failure(rig.stub.GetJob(pb.GetJobRequest(job_id="x" * 70_000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_call_has_one_log_line_with_the_id_that_the_caller_gave_it(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lmms_eval_grpc")
    await rig.stub.ListJobs(pb.ListJobsRequest(), metadata=(("x-request-id", "trace-7"),))
    await failure(rig.stub.GetJob(pb.GetJobRequest(job_id="nope"), metadata=(("x-request-id", "trace 8"),)))
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("method=")]
    assert len(lines) == 2
    assert "ListJobs code=OK" in lines[0]
    assert "request_id=trace-7" in lines[0]
    assert "peer=ipv4:127.0.0.1:" in lines[0]
    assert "GetJob code=NOT_FOUND" in lines[1]
    assert "trace 8" not in lines[1]


def wire_bytes(told: Status) -> int:
    """What the status takes in the trailers."""
    return len(urllib.parse.quote(told.message)) + len(base64.b64encode(told.details))


@pytest.mark.parametrize("text", ["x", "ü", "模", "🙂", "\ud800"])
def test_a_status_with_many_violations_stays_small_and_says_how_many_there_are(text: str) -> None:
    told = status_of(InvalidRequest([Violation(f"spec.tasks[{i}]", f"unknown {text * 900}") for i in range(200)]))
    message = status_pb2.Status.FromString(told.details)
    bad = error_details_pb2.BadRequest()
    assert message.details[1].Unpack(bad)
    assert wire_bytes(told) <= MAX_WIRE_BYTES
    *shown, last = bad.field_violations
    assert shown
    assert f"{200 - len(shown)} more" in last.description
    assert shown[0].field == "spec.tasks[0]"


@pytest.mark.parametrize("text", ["x", "模", "🙂"])
def test_every_status_stays_small_whatever_it_quotes(text: str) -> None:
    long = text * 100_000
    for error in (
        domain.JobNotFound(long),
        domain.RequestIdConflict(long, long),
        domain.SamplesNotLogged(long, long),
        domain.SequenceOutOfRange(long, 1, 2),
        domain.NotAccepting(long, 1.0),
    ):
        assert wire_bytes(status_of(error)) <= MAX_WIRE_BYTES


async def test_a_status_with_many_violations_reaches_the_client(rig: Rig) -> None:
    spec = rig.spec(tasks=[f"no_such_task_{i}_{'x' * 500}" for i in range(500)])
    found = violations(await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=spec))))
    assert "spec.tasks[0]" in found
    assert "more" in found[""]


async def test_an_oversized_name_does_not_break_the_status(rig: Rig) -> None:
    error = await failure(rig.stub.GetJob(pb.GetJobRequest(job_id="ü" * 4096)))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert detail(error, "ErrorInfo").reason == "JOB_NOT_FOUND"
    assert isinstance(error, grpc.aio.AioRpcError)


async def test_observers_hold_up_no_answer() -> None:
    told: list[Call] = []
    observer = SimpleNamespace(begins=lambda call: None, ends=told.append, unknown=lambda: None)
    context: Any = SimpleNamespace(invocation_metadata=lambda: (), peer=lambda: "peer", code=lambda: None)

    async def answer(request: Any, context: Any) -> str:
        return "answer"

    assert await ObserveCalls([observer]).call(answer, None, context, "/service/Method") == "answer"
    assert not told
    await asyncio.sleep(0)
    assert [(call.method, call.code) for call in told] == [("service/Method", "OK")]


async def test_a_client_that_is_gone_during_a_write_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    async def write_to_nobody(request: Any, context: Any) -> None:
        raise grpc.aio.InternalError("the call is over")

    codes: list[grpc.StatusCode] = []
    context: Any = SimpleNamespace(set_code=codes.append)
    assert await MaskErrors().call(write_to_nobody, None, context, "/service/Method") is None
    assert codes == [grpc.StatusCode.CANCELLED]
    assert not caplog.records


async def test_a_cancelled_call_stays_cancelled() -> None:
    async def be_cancelled(request: Any, context: Any) -> None:
        raise asyncio.CancelledError

    context: Any = None
    with pytest.raises(asyncio.CancelledError):
        await MaskErrors().call(be_cancelled, None, context, "/service/Method")

"""Errors are typed, picklable, keep their cause, and survive any details."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from lmms_eval_grpc.client import (
    EvalServiceError,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    QueueFull,
    RequestConflict,
    SamplesNotLogged,
    SequenceOutOfRange,
    ServerUnavailable,
    TooManyJobs,
    TooManySubmissions,
    TooManyWatches,
    Violation,
)
from lmms_eval_grpc.client.errors import raise_typed, to_error
from tests.client.scripted_server import details, retry_info

VIOLATION = error_details_pb2.BadRequest.FieldViolation(field="spec.model", description="unknown; use dummy")


def failed(code: grpc.StatusCode, text: str = "text", trailers: Any = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), text)


@pytest.mark.parametrize(
    ("code", "trailers", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, details("INVALID_REQUEST"), InvalidRequest),
        (grpc.StatusCode.INVALID_ARGUMENT, (), InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, details("JOB_NOT_FOUND"), JobNotFound),
        (grpc.StatusCode.ALREADY_EXISTS, details("REQUEST_ID_CONFLICT"), RequestConflict),
        (grpc.StatusCode.FAILED_PRECONDITION, details("SAMPLES_NOT_LOGGED"), SamplesNotLogged),
        (grpc.StatusCode.OUT_OF_RANGE, details("SEQUENCE_OUT_OF_RANGE"), SequenceOutOfRange),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, details("QUEUE_FULL"), QueueFull),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, details("TOO_MANY_WATCHES"), TooManyWatches),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, details("TOO_MANY_JOBS"), TooManyJobs),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, details("TOO_MANY_SUBMISSIONS"), TooManySubmissions),
        (grpc.StatusCode.UNAVAILABLE, (), ServerUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, (), ServerUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, details("CALL_TIMED_OUT"), ServerUnavailable),
        # grpc's own (a message over the size limit), or a proxy's: not the service's situation of that code.
        (grpc.StatusCode.RESOURCE_EXHAUSTED, (), EvalServiceError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, details("QUEUE_FULL", domain="elsewhere"), EvalServiceError),
        (grpc.StatusCode.NOT_FOUND, (), EvalServiceError),
        (grpc.StatusCode.INTERNAL, details("INTERNAL"), EvalServiceError),
        (grpc.StatusCode.UNIMPLEMENTED, (), EvalServiceError),
    ],
)
def test_each_situation_has_its_class(code: grpc.StatusCode, trailers: Any, kind: type[EvalServiceError]) -> None:
    error = to_error(failed(code, trailers=trailers), address="here:1")
    assert type(error) is kind
    assert error.code == code.name


def test_facts_are_on_the_error() -> None:
    trailers = details("QUEUE_FULL", retry_info(2.5))
    error = to_error(failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", trailers), address="here:1")
    assert (str(error), error.reason, error.metadata, error.retry_after) == ("full", "QUEUE_FULL", {"a": "b"}, 2.5)


def test_violations_are_told_field_by_field() -> None:
    trailers = details("INVALID_REQUEST", error_details_pb2.BadRequest(field_violations=[VIOLATION]))
    error = to_error(failed(grpc.StatusCode.INVALID_ARGUMENT, "", trailers), address="here:1")
    assert isinstance(error, InvalidRequest)
    assert error.violations == (Violation("spec.model", "unknown; use dummy"),)
    assert str(error) == "spec.model: unknown; use dummy"


@pytest.mark.parametrize(
    "value", [b"\xff\xff garbled", b"", b"\x1a\x05\x0a\xff\xff\xff\xff", b"x" * 100_000, "text instead of bytes"]
)
def test_details_that_cannot_be_read_are_left_out(value: Any) -> None:
    class Odd(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.NOT_FOUND

        def details(self) -> str:
            return "no such job"

        def trailing_metadata(self) -> Any:
            return (("grpc-status-details-bin", value),)

    error = to_error(Odd(), address="here:1")
    assert (str(error), error.code, error.reason) == ("no such job", "NOT_FOUND", "")


def test_garbled_parts_leave_the_others_readable() -> None:
    bad = error_details_pb2.BadRequest(field_violations=[VIOLATION])
    [(key, value)] = details("INVALID_REQUEST", bad, retry_info(1))
    broken = value.replace(bad.SerializeToString(), b"\xff" * bad.ByteSize())
    error = to_error(failed(grpc.StatusCode.INVALID_ARGUMENT, trailers=((key, broken),)), address="here:1")
    assert (error.reason, error.retry_after) == ("INVALID_REQUEST", 1.0)


def test_an_rpc_error_without_anything_is_still_an_error() -> None:
    assert to_error(grpc.RpcError(), address="here:1").code == "UNKNOWN"


def test_an_unreachable_server_is_named() -> None:
    error = to_error(failed(grpc.StatusCode.UNAVAILABLE, "Connection refused"), address="here:1")
    assert "here:1" in str(error)
    assert "Connection refused" in str(error)
    assert isinstance(error, ConnectionError)


def job_failed() -> JobFailed:
    return JobFailed({"job_id": "j", "status": "failed", "error": "no memory", "error_info": {"reason": "OOM"}})


@pytest.mark.parametrize(
    "error",
    [
        EvalServiceError("m", code="INTERNAL", reason="R", metadata={"k": "v"}, retry_after=1.0),
        InvalidRequest.of([Violation("a", "b")]),
        JobNotFound("m"),
        QueueFull("m", retry_after=3),
        ServerUnavailable("m"),
        RequestConflict("m"),
        SamplesNotLogged("m"),
        job_failed(),
    ],
)
def test_errors_survive_pickling_with_all_they_know(error: EvalServiceError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_the_cause_is_kept_and_travels() -> None:
    class Unpicklable(grpc.RpcError):
        def __init__(self) -> None:
            super().__init__("inner")
            self.lock = (i for i in ())

    for cause, kept in ((failed(grpc.StatusCode.UNAVAILABLE), grpc.aio.AioRpcError), (Unpicklable(), RuntimeError)):
        with pytest.raises(EvalServiceError) as caught:
            raise_typed(cause, address="here:1")
        assert caught.value.__cause__ is cause
        assert caught.value.rpc_error is cause
        copy = pickle.loads(pickle.dumps(caught.value))
        assert type(copy.__cause__) is kept
        assert type(cause).__name__ in repr(copy.__cause__) or "Unpicklable" in str(copy.__cause__)


def test_a_failed_job_is_a_runtime_error_that_tells_why() -> None:
    error = job_failed()
    assert isinstance(error, RuntimeError)
    assert str(error) == "Job failed: no memory"
    assert error.job["job_id"] == "j"
    assert error.reason == "OOM"

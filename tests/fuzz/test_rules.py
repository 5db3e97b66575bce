"""The rules see what they are there for."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from lmms_eval_grpc.server.principals import Role
from tests.fuzz.corpus_files import Kept, keep
from tests.fuzz.methods import BY_NAME, METHODS, Code
from tests.fuzz.rules import DETAILS_KEY, Answer, Request, Rules

RULES = Rules(["/srv/state", "/home/server"], largest_request=1000)
GET = Request(BY_NAME["GetJob"], (b"\n\x05job-1",))
BAD = grpc.StatusCode.INVALID_ARGUMENT


def packed(description: str) -> tuple[tuple[str, bytes], ...]:
    status = status_pb2.Status(code=3)
    violation = error_details_pb2.BadRequest.FieldViolation(field="job_id", description=description)
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    return ((DETAILS_KEY, status.SerializeToString()),)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer(grpc.StatusCode.INTERNAL, "internal error", ()), "INTERNAL is no answer of GetJob"),
        (Answer(grpc.StatusCode.UNKNOWN, "", ()), "UNKNOWN is no answer"),
        (Answer(grpc.StatusCode.UNAVAILABLE, "", ()), "UNAVAILABLE is no answer"),
        (Answer(grpc.StatusCode.CANCELLED, "", ()), "CANCELLED is no answer"),
        (Answer(grpc.StatusCode.ALREADY_EXISTS, "", ()), "ALREADY_EXISTS is no answer"),
        (Answer(BAD, 'File "x.py", line 3, in f', ()), "a traceback"),
        (Answer(BAD, "in /srv/state/jobs", ()), "the server's /srv/state"),
        (Answer(BAD, "", packed("see /home/server/x")), "the server's /home/server"),
        (Answer(BAD, "", packed("Traceback (most recent call last)")), "a traceback"),
        (Answer(BAD, "", (("x", "y" * 9000),)), "bytes of trailers"),
    ],
)
def test_what_breaks_a_rule_is_found(answer: Answer, found: str) -> None:
    (problem,) = RULES.problems(GET, answer)
    assert found in problem


def test_a_path_that_the_caller_named_may_be_told() -> None:
    request = Request(BY_NAME["GetJob"], (b"\n\x0f/srv/state/jobs",))
    assert RULES.problems(request, Answer(BAD, "in /srv/state/jobs", ())) == []


def test_who_gives_up_or_sends_too_much_may_be_told_so() -> None:
    for request, code in (
        (Request(GET.method, GET.messages, timeout=0.1), grpc.StatusCode.DEADLINE_EXCEEDED),
        (Request(GET.method, GET.messages, gives_up=True), grpc.StatusCode.CANCELLED),
        (Request(GET.method, (bytes(2000),)), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        assert RULES.problems(request, Answer(code, "", ())) == []
        assert RULES.problems(GET, Answer(code, "", ()))


@pytest.mark.parametrize(
    ("name", "role", "code"),
    [
        ("GetJob", Role.NONE, Code.UNAUTHENTICATED),
        ("Drain", Role.NONE, Code.UNAUTHENTICATED),
        ("Evaluate", Role.READ, Code.PERMISSION_DENIED),
        ("Drain", Role.SUBMIT, Code.PERMISSION_DENIED),
    ],
)
def test_who_may_not_call_is_told_nothing_else(name: str, role: Role, code: grpc.StatusCode) -> None:
    request = Request(BY_NAME[name], (b"\xff",), role=role)
    assert RULES.problems(request, Answer(code, "", ())) == []
    for other in (Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED):
        assert RULES.problems(request, Answer(other, "", ()))


def test_who_may_call_is_not_asked_again() -> None:
    for name, role, codes in (
        ("Check", Role.NONE, {Code.OK, Code.NOT_FOUND}),
        ("GetJob", Role.READ, {Code.OK, Code.NOT_FOUND}),
        ("CancelJob", Role.SUBMIT, {Code.OK, Code.NOT_FOUND, Code.PERMISSION_DENIED}),
        ("CancelJob", Role.ADMIN, {Code.OK, Code.NOT_FOUND}),
        ("WatchJob", Role.READ, {Code.OK, Code.NOT_FOUND, Code.OUT_OF_RANGE, Code.RESOURCE_EXHAUSTED}),
    ):
        assert BY_NAME[name].codes(role) == codes | {Code.INVALID_ARGUMENT}


def test_all_services_are_known() -> None:
    assert {method.path.split("/")[1] for method in METHODS} == {
        "lmms_eval_grpc.v1.EvaluationService",
        "lmms_eval_grpc.v1.AdminService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert len({method.path for method in METHODS}) == len(METHODS) >= 23


@pytest.mark.parametrize("data", [b"", b"\n\x05job-1", b"\xff\xff", b"\n\x05job-1\x98\x06\x01", b"\n\x0c/home/caller"])
def test_a_kept_request_comes_back_as_it_was(tmp_path: Path, data: bytes) -> None:
    request = Request(BY_NAME["GetJob"], (data,))
    path, *rest = keep(request, Path("/home/caller"), tmp_path).read_text().split("\n== ")
    bodies = tuple((kind, text) for kind, _, text in (part.partition("\n") for part in rest))
    kept = Kept("name", path.strip(), bodies)
    assert kept.request(Path("/home/caller")).messages == (data,)
    if b"caller" in data:
        assert kept.request(Path("/elsewhere")).messages == (b"\n\x0a/elsewhere",)

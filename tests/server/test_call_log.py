"""The lines of the log: as JSON and as text, and what they belong to."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from lmms_eval_grpc.server.call_log import AddContext, JsonFormatter, LogCalls, TextFormatter
from lmms_eval_grpc.server.observe import Call
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as pb_grpc
from tests.scheduler.doubles import PATIENCE, until
from tests.server.conftest import Rig, failure
from tests.server.test_launch import launched, wait_until

SERVICE = "/lmms_eval_grpc.v1.EvaluationService"


class Lines:
    """What was logged so far, line by line."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def texts(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.texts]

    def calls(self, method: str) -> list[dict[str, Any]]:
        return [line for line in self.objects if line.get("method") == f"{SERVICE}/{method}"]


@pytest.fixture(params=[JsonFormatter])
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    """The package's log, written as a server of its own writes it."""
    kept = Lines()
    handler = logging.StreamHandler(kept.stream)
    handler.setFormatter(request.param())
    handler.addFilter(AddContext())
    package = logging.getLogger("lmms_eval_grpc")
    level = package.level
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    yield kept
    package.removeHandler(handler)
    package.setLevel(level)


async def test_a_call_has_one_object_with_all_that_is_known_of_it(rig: Rig, lines: Lines) -> None:
    await failure(rig.stub.GetJob(pb.GetJobRequest(job_id="nope"), metadata=(("x-request-id", "mine-7"),)))
    await until(lambda: bool(lines.calls("GetJob")))
    (line,) = lines.calls("GetJob")
    assert datetime.now(UTC) - datetime.fromisoformat(line.pop("ts")) < timedelta(minutes=5)
    assert line.pop("ms") >= 0
    assert line.pop("peer").startswith("ipv4:127.0.0.1:")
    assert "code=NOT_FOUND" in line.pop("message")
    assert line == {
        "level": "info",
        "logger": "lmms_eval_grpc.server.call_log",
        "method": f"{SERVICE}/GetJob",
        "code": "NOT_FOUND",
        "reason": "JOB_NOT_FOUND",
        "request_id": "mine-7",
        "job_id": "nope",
        "principal": "anonymous",
    }


async def test_the_call_that_submits_a_job_tells_its_id(rig: Rig, lines: Lines) -> None:
    job = await rig.submit()
    await until(lambda: bool(lines.calls("Evaluate")))
    (line,) = lines.calls("Evaluate")
    assert line["job_id"] == job.job_id
    assert len(line["request_id"]) == 16


async def test_what_is_not_an_id_does_not_get_into_the_log(rig: Rig, lines: Lines) -> None:
    await failure(rig.stub.GetJob(pb.GetJobRequest(job_id="a b\ncode=OK"), metadata=(("x-request-id", "a b"),)))
    await until(lambda: bool(lines.calls("GetJob")))
    (line,) = lines.calls("GetJob")
    assert "job_id" not in line
    assert "a b" not in json.dumps(line)


async def test_lines_of_a_job_name_it_and_its_owner(rig: Rig, lines: Lines) -> None:
    job_id, execution = await rig.running()
    execution.break_with(RuntimeError("the executor is broken"))
    await rig.ended(job_id)
    (line,) = [line for line in lines.objects if "the executor failed at job" in line["message"]]
    assert (line["job_id"], line["principal"], line["level"]) == (job_id, "anonymous", "error")
    assert "request_id" not in line
    assert "RuntimeError: the executor is broken" in line["exception"]
    assert "\n" in line["exception"]


async def test_a_bug_in_a_call_is_logged_with_the_id_of_the_call(
    rig: Rig, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_down(*args: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("lmms_eval_grpc.server.listings.list_jobs", break_down)
    await failure(rig.stub.ListJobs(pb.ListJobsRequest(), metadata=(("x-request-id", "mine-8"),)))
    await until(lambda: bool(lines.calls("ListJobs")))
    told, over = [line for line in lines.objects if line.get("request_id") == "mine-8"]
    assert "internal error" in told["message"]
    assert "ZeroDivisionError: a bug" in told["exception"]
    assert over["code"] == "INTERNAL"


@pytest.mark.parametrize("lines", [TextFormatter], indirect=True)
async def test_a_line_of_text_ends_with_what_it_belongs_to_and_repeats_nothing(rig: Rig, lines: Lines) -> None:
    job = await rig.submit()
    await rig.stub.GetJob(pb.GetJobRequest(job_id=job.job_id), metadata=(("x-request-id", "mine-9"),))
    await until(lambda: any("/GetJob" in line for line in lines.texts))
    (line,) = [line for line in lines.texts if "/GetJob" in line]
    assert line.endswith(f"request_id=mine-9 job_id={job.job_id} principal=anonymous")
    assert line.count("mine-9") == 1


def test_a_server_that_logs_json_logs_nothing_else(tmp_path: Path) -> None:
    """Its start, a call and its end; also what other packages say."""
    with launched(tmp_path, settings="log_format='json'") as (process, address):
        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.EvaluationServiceStub(channel)
            stub.QueueStatus(pb.QueueStatusRequest(), timeout=4 * PATIENCE, metadata=(("x-request-id", "mine-10"),))
        wait_until(lambda: "mine-10" in (tmp_path / "server.log").read_text(), tmp_path)
        process.terminate()
        assert process.wait(timeout=4 * PATIENCE) == 0
    lines = [json.loads(line) for line in (tmp_path / "server.log").read_text().splitlines()]
    assert {"ts", "level", "logger", "message"} <= lines[0].keys()
    assert [line["code"] for line in lines if line.get("request_id") == "mine-10"] == ["OK"]
    assert lines[-1]["message"] == "stopped"


def test_warnings_of_other_packages_are_in_the_log_too() -> None:
    code = (
        "import logging; from lmms_eval_grpc.server.launch import set_up_logging; set_up_logging('info', 'json');"
        "logging.getLogger('other').warning('late'); logging.getLogger('other').info('unheard')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=4 * PATIENCE, check=True)
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["message"] == "late"


@pytest.mark.parametrize("moment", ["begins", "ends"])
async def test_what_follows_calls_cannot_make_them_fail(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    def fail(self: LogCalls, call: Call) -> None:
        raise ValueError("a bug in what only looks on")

    monkeypatch.setattr(LogCalls, moment, fail)
    assert (await rig.stub.GetServerInfo(pb.GetServerInfoRequest())).server.version
    error = await failure(rig.stub.GetJob(pb.GetJobRequest(job_id="nope")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    await until(lambda: "a bug in what only looks on" in caplog.text)

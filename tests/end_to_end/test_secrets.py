"""The secrets of a job, on a real server with real workers: the model gets them, and nothing keeps or shows them."""

from __future__ import annotations

import json
import stat
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import lmms_eval_grpc.benchmarks
from lmms_eval_grpc.client import EvalClient, JobFailed
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as pb_grpc
from lmms_eval_grpc.v1 import job_pb2
from tests.end_to_end.conftest import ServerProcess, wait_until
from tests.support.judge_server import JudgeHandle, Reply, running_judge

KEY = "plain-looking-value-8315"
HEADER = "team-credential-5521"
SECRETS = (KEY, HEADER)

TASK = """
task: telling_digits
include: {digits}
process_results: !function telling.process_results
"""
FUNCTIONS = """
import logging, sys

KEY = {key!r}


def process_results(doc, results):
    print("printed", KEY)
    print("to stderr", KEY, file=sys.stderr)
    logging.getLogger("task").warning("logged %s", KEY)
    return {{"exact_match": float(results[0] == str(doc["label"]))}}
"""


@pytest.fixture
def judge() -> Iterator[JudgeHandle]:
    with running_judge() as running:
        yield running


@pytest.fixture
def telling(tmp_path: Path) -> Path:
    """A task whose code prints and logs the secret."""
    digits = Path(lmms_eval_grpc.benchmarks.__path__[0]) / "handwritten_digits" / "handwritten_digits.yaml"
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "telling.py").write_text(FUNCTIONS.format(key=KEY))
    (folder / "telling_digits.yaml").write_text(TASK.format(digits=digits))
    return folder


def request(judge: JudgeHandle, task: str, **fields: object) -> pb.EvaluateRequest:
    spec = job_pb2.EvaluationSpec(model="openai", tasks=[task], limit=job_pb2.SampleLimit(count=2), **fields)  # type: ignore[arg-type]
    spec.model_args.update(
        {
            "model": "m",
            "base_url": judge.url,
            "api_key": KEY,
            "extra_headers": {"Authorization": f"Bearer {HEADER}", "X-Team": "vision"},
            "max_retries": 1,
        }
    )
    return pb.EvaluateRequest(spec=spec, request_id=str(uuid.uuid4()))


def files_with_secrets(folder: Path) -> list[str]:
    """Files below a folder, the store's among them, that hold a secret in whatever place."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in SECRETS)
    ]


def stub_of(client: EvalClient, server: ServerProcess) -> pb_grpc.EvaluationServiceStub:
    return pb_grpc.EvaluationServiceStub(grpc.insecure_channel(server.address))


def gone(path: Path) -> None:
    wait_until(lambda: not path.exists(), 60, lambda: f"{path} is still there")


def test_a_job_that_tells_its_secret_leaves_none(tmp_path: Path, judge: JudgeHandle, telling: Path) -> None:
    results = tmp_path / "results"
    server = ServerProcess(tmp_path, "--include-path", str(telling)).start()
    judge.answer = lambda asked: Reply(content=f"I was told {KEY}")
    try:
        with server.client() as client:
            asked = request(judge, "telling_digits", output_dir=str(results))
            stub = stub_of(client, server)
            job_id = stub.Evaluate(asked).job.job_id
            secrets = server.state_dir / "jobs" / job_id / "secrets.json"
            done = client.wait_for_job(job_id, verbose=False, timeout=240)
            assert done["status"] == "completed", server.log()
            assert {one.headers["Authorization"] for one in judge.asked} == {f"Bearer {HEADER}"}
            job = client.get(job_id)
            shown = job.evaluation.model_args
            assert shown["api_key"] == "[redacted]"
            headers: Any = shown["extra_headers"]
            assert dict(headers) == {"Authorization": "[redacted]", "X-Team": "vision"}
            answered = [job, stub.ListJobs(pb.ListJobsRequest(view=job_pb2.JOB_VIEW_FULL))]
            answered += list(stub.WatchJob(pb.WatchJobRequest(job_id=job_id, after_sequence=0)))
            logs = list(stub.StreamLogs(pb.StreamLogsRequest(job_id=job_id)))
            text = "".join(part.text for part in logs)
            for word in ("printed", "to stderr", "logged"):
                assert f"{word} [redacted]" in text
            answered += [*logs, *stub.StreamSamples(pb.StreamSamplesRequest(job_id=job_id))]
            assert not [one for one in answered if any(secret in str(one) for secret in SECRETS)]
            assert "[redacted]" in job.evaluation_result.manifest_json
            gone(secrets)
            # The same request again is the same job; with another secret it is another request.
            assert stub.Evaluate(asked).job.job_id == job_id
            asked.spec.model_args["api_key"] = "another"
            with pytest.raises(Exception, match="ALREADY_EXISTS"):
                stub.Evaluate(asked)
    finally:
        assert server.stop() == 0
    assert files_with_secrets(server.state_dir) == []
    assert files_with_secrets(results) == []
    assert not any(secret in server.log() for secret in SECRETS)
    assert json.loads(next(results.rglob("*_results.json")).read_text())["manifest"]["model_args"]["api_key"] == (
        "[redacted]"
    )


def test_a_server_that_is_killed_goes_on_with_the_secret(tmp_path: Path, judge: JudgeHandle, telling: Path) -> None:
    server = ServerProcess(tmp_path, "--include-path", str(telling)).start()
    go_on = threading.Event()
    judge.answer = lambda asked: Reply(hold=go_on)
    try:
        with server.client() as client:
            job_id = stub_of(client, server).Evaluate(request(judge, "telling_digits")).job.job_id
            wait_until(lambda: bool(judge.asked), 120, lambda: f"nothing was asked: {server.log()}")
        secrets = server.state_dir / "jobs" / job_id / "secrets.json"
        assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
        assert files_with_secrets(server.state_dir) == [f"jobs/{job_id}/secrets.json"], "while the job runs"
        server.kill()
        go_on.set()
        before = len(judge.asked)
        server.start()
        with server.client() as client:
            assert client.wait_for_job(job_id, verbose=False, timeout=240)["status"] == "completed"
            assert client.get(job_id).attempt == 2
        assert {one.headers["Authorization"] for one in judge.asked[before:]} == {f"Bearer {HEADER}"}
        gone(secrets)
        assert files_with_secrets(server.state_dir) == []
    finally:
        go_on.set()
        server.stop()


def test_an_error_that_quotes_the_secret_is_told_without_it(tmp_path: Path, judge: JudgeHandle) -> None:
    server = ServerProcess(tmp_path).start()
    body = json.dumps({"error": {"message": f"{KEY} and {HEADER} are no keys"}}).encode()
    judge.answer = lambda asked: Reply(status=401, body=body)
    try:
        with server.client() as client:
            stub = stub_of(client, server)
            job_id = stub.Evaluate(request(judge, "handwritten_digits")).job.job_id
            with pytest.raises(JobFailed) as caught:
                client.wait_for_job(job_id, verbose=False, timeout=240)
            assert not any(secret in str(caught.value) for secret in SECRETS)
            job = client.get(job_id)
            assert "[redacted]" in job.error.message
            assert not any(secret in str(job) for secret in SECRETS)
            gone(server.state_dir / "jobs" / job_id / "secrets.json")
    finally:
        server.stop()
    assert files_with_secrets(server.state_dir) == []

"""A terminal client without our protos: the service is driven by reflection alone, with the real ``buf`` binary."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import ServerProcess

SERVICE = "lmms_eval_grpc.v1.EvaluationService"


def buf_curl(server: ServerProcess, method: str, request: dict[str, Any] | None = None, *flags: str) -> str:
    command = [
        str(Path(sys.executable).with_name("buf")),
        "curl",
        "--protocol",
        "grpc",
        "--http2-prior-knowledge",
        *flags,
    ]
    if request is not None:
        command += ["--data", json.dumps(request)]
    url = f"http://{server.address}" + (f"/{SERVICE}/{method}" if method else "")
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def messages(output: str) -> list[dict[str, Any]]:
    """The JSON documents of a stream, which buf prints one after another."""
    decoder, found, rest = json.JSONDecoder(), [], output.strip()
    while rest:
        message, end = decoder.raw_decode(rest)
        found.append(message)
        rest = rest[end:].lstrip()
    return found


def test_reflection_lists_the_service_and_all_its_methods(server: ServerProcess) -> None:
    listed = buf_curl(server, "", None, "--list-methods").split()
    assert f"{SERVICE}/Evaluate" in listed
    assert f"{SERVICE}/WatchJob" in listed
    assert len([method for method in listed if method.startswith(SERVICE)]) == 13
    assert "grpc.health.v1.Health/Check" in listed


def test_a_job_is_submitted_and_watched_to_its_end(server: ServerProcess, tiny_checkpoint: Path) -> None:
    request = {
        "spec": {
            "model": "idefics3",
            "model_args": {"pretrained": str(tiny_checkpoint)},
            "tasks": ["handwritten_digits"],
            "limit": {"count": 8},
        },
        "labels": {"from": "terminal"},
    }
    (submitted,) = messages(buf_curl(server, "Evaluate", request))
    job_id = submitted["job"]["jobId"]
    assert submitted["job"]["state"] == "JOB_STATE_QUEUED"

    watched = messages(buf_curl(server, "WatchJob", {"jobId": job_id, "afterSequence": "0"}))
    states = [m["event"]["stateChange"]["state"] for m in watched if "stateChange" in m.get("event", {})]
    assert states == ["JOB_STATE_QUEUED", "JOB_STATE_RUNNING", "JOB_STATE_COMPLETED"]
    (result,) = [m["event"]["taskResult"] for m in watched if "taskResult" in m.get("event", {})]
    assert result["task"] == "handwritten_digits"
    assert result["samples"] == {"asked": "8", "scored": "8"}


def test_a_bad_request_is_refused_with_its_field(server: ServerProcess) -> None:
    with pytest.raises(AssertionError, match=r"spec\.tasks"):
        buf_curl(server, "Evaluate", {"spec": {"model": "idefics3", "tasks": []}})

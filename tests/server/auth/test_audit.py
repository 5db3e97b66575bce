"""The audit log: what was done and what was refused, and nothing that is secret."""

from __future__ import annotations

import stat
import uuid
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.server.auth import audit_log
from lmms_eval_grpc.server.auth.audit_log import AuditLog
from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.v1 import admin_service_pb2 as admin_pb
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from tests.server.conftest import Guarded, NewRig, failure
from tests.support.access import bearer
from tests.support.audit import lines_of

METHOD = "lmms_eval_grpc.v1.EvaluationService/"
ADMIN = "lmms_eval_grpc.v1.AdminService/"


def shown(line: dict[str, Any]) -> tuple[Any, ...]:
    """What of a line does not depend on the moment and the connection."""
    return (line["principal"], line["role"], line["method"].rpartition("/")[2], line["code"], line.get("job_id"))


async def test_every_change_is_a_line_with_who_what_and_how_it_ended(guarded: Guarded) -> None:
    key = str(uuid.uuid4())
    spec = guarded.rig.spec()
    spec.model_args["api_key"] = "sk-secret"
    refused = guarded.stub.Evaluate(pb.EvaluateRequest(spec=spec, request_id=key), metadata=guarded.as_("alice"))
    assert (await failure(refused)).code().name == "INVALID_ARGUMENT"
    request = pb.EvaluateRequest(spec=guarded.rig.spec(), request_id=key, priority=3)
    job = (await guarded.stub.Evaluate(request, metadata=guarded.as_("alice"))).job
    waiting = (
        await guarded.stub.Evaluate(pb.EvaluateRequest(spec=guarded.rig.spec()), metadata=guarded.as_("bob"))
    ).job
    await guarded.stub.GetJob(pb.GetJobRequest(job_id=job.job_id), metadata=guarded.as_("rita"))
    root = guarded.as_("root")
    await guarded.admin.SetJobPriority(admin_pb.SetJobPriorityRequest(job_id=waiting.job_id, priority=7), metadata=root)
    await guarded.admin.PauseQueue(admin_pb.PauseQueueRequest(reason="night"), metadata=root)
    await guarded.admin.ResumeQueue(admin_pb.ResumeQueueRequest(), metadata=root)
    await guarded.stub.CancelJob(pb.CancelJobRequest(job_id=waiting.job_id), metadata=guarded.as_("bob"))
    await failure(guarded.stub.CancelJob(pb.CancelJobRequest(job_id="nothing"), metadata=root))
    await failure(guarded.stub.MergeCheckpoint(pb.MergeCheckpointRequest(), metadata=guarded.as_("bob")))
    await guarded.admin.CollectGarbage(admin_pb.CollectGarbageRequest(keep=0), metadata=root)
    await guarded.admin.Drain(admin_pb.DrainRequest(), metadata=root)
    lines = guarded.audited()
    assert [shown(line) for line in lines] == [
        ("alice", "submit", "Evaluate", "INVALID_ARGUMENT", None),
        ("alice", "submit", "Evaluate", "OK", job.job_id),
        ("bob", "submit", "Evaluate", "OK", waiting.job_id),
        ("root", "admin", "SetJobPriority", "OK", waiting.job_id),
        ("root", "admin", "PauseQueue", "OK", None),
        ("root", "admin", "ResumeQueue", "OK", None),
        ("bob", "submit", "CancelJob", "OK", waiting.job_id),
        ("root", "admin", "CancelJob", "NOT_FOUND", "nothing"),
        ("bob", "submit", "MergeCheckpoint", "INVALID_ARGUMENT", None),
        ("root", "admin", "CollectGarbage", "OK", None),
        ("root", "admin", "Drain", "OK", None),
    ]
    assert [lines[1]["request_id"], lines[1]["priority"], lines[3]["priority"]] == [key, 3, 7]
    assert lines[9]["job_ids"] == [waiting.job_id]
    assert all(line["time"].endswith("+00:00") and line["peer"].startswith("ipv4:127.0.0.1") for line in lines)
    assert all(line["method"].startswith((METHOD, ADMIN)) for line in lines)
    text = guarded.audit.read_text()
    assert not any(secret in text for secret in ("sk-secret", *guarded.tokens.values()))
    assert stat.S_IMODE(guarded.audit.stat().st_mode) == 0o600


async def test_refused_calls_are_lines_too(guarded: Guarded) -> None:
    job = (await guarded.stub.Evaluate(pb.EvaluateRequest(spec=guarded.rig.spec()), metadata=guarded.as_("alice"))).job
    await failure(guarded.stub.QueueStatus(pb.QueueStatusRequest()))
    await failure(guarded.stub.QueueStatus(pb.QueueStatusRequest(), metadata=bearer("leg_made-up")))
    await failure(guarded.stub.Evaluate(pb.EvaluateRequest(), metadata=guarded.as_("rita")))
    await failure(guarded.stub.CancelJob(pb.CancelJobRequest(job_id=job.job_id), metadata=guarded.as_("bob")))
    assert [shown(line) for line in guarded.audited()[1:]] == [
        ("unknown", "none", "QueueStatus", "UNAUTHENTICATED", None),
        ("unknown", "none", "QueueStatus", "UNAUTHENTICATED", None),
        ("rita", "read", "Evaluate", "PERMISSION_DENIED", None),
        ("bob", "submit", "CancelJob", "PERMISSION_DENIED", job.job_id),
    ]
    assert "leg_made-up" not in guarded.audit.read_text()


async def test_whoever_is_refused_again_and_again_does_not_fill_the_disk(guarded: Guarded) -> None:
    for _ in range(audit_log.REFUSALS_PER_CALLER + 15):
        await failure(guarded.stub.QueueStatus(pb.QueueStatusRequest()))
    await guarded.stub.Evaluate(pb.EvaluateRequest(spec=guarded.rig.spec()), metadata=guarded.as_("alice"))
    await failure(guarded.stub.Evaluate(pb.EvaluateRequest(), metadata=guarded.as_("rita")))
    codes = [line["code"] for line in guarded.audited()]
    # A slow test may reach into a second window, which has lines of its own.
    assert audit_log.REFUSALS_PER_CALLER <= codes.count("UNAUTHENTICATED") <= audit_log.REFUSALS_PER_CALLER + 15
    assert codes[-2:] == ["OK", "PERMISSION_DENIED"]


def test_how_many_refusals_were_left_out_is_told_when_the_next_window_begins(tmp_path: Path) -> None:
    now = [1000.0]
    path = tmp_path / "logs" / "audit.jsonl"
    log = AuditLog(path, clock=lambda: now[0])
    log.open()
    for number in range(audit_log.REFUSALS_PER_CALLER + 5):
        log.write_refusal("host", {"number": number})
    log.write_refusal("another", {"number": 0})
    assert len(lines_of(path)) == audit_log.REFUSALS_PER_CALLER + 1
    now[0] += audit_log.WINDOW
    log.write_refusal("host", {"number": 99})
    assert [line.get("refusals_left_out", line.get("number")) for line in lines_of(path)[-2:]] == [5, 99]
    for number in range(2 * audit_log.REFUSALS_IN_TOTAL):
        log.write_refusal(f"host-{number}", {"number": number})
    log.close()
    told = lines_of(path)
    assert told[-1]["refusals_left_out"] == audit_log.REFUSALS_IN_TOTAL + 1
    assert len(told) == audit_log.REFUSALS_PER_CALLER + 1 + 1 + audit_log.REFUSALS_IN_TOTAL + 1
    log.close()


def test_a_log_that_was_moved_away_or_removed_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"kept": true}\n')
    log = AuditLog(path)
    log.open()
    log.write({"line": 1})
    path.rename(tmp_path / "audit.jsonl.1")
    log.write({"line": 2})
    path.unlink()
    log.write({"line": 3})
    log.close()
    assert [line.get("line", "old") for line in lines_of(tmp_path / "audit.jsonl.1")] == ["old", 1]
    assert [line["line"] for line in lines_of(path)] == [3]


def test_a_log_that_cannot_be_written_stops_no_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.open()
    path.unlink()
    path.mkdir()
    log.write({"line": 1})
    assert f"the audit log {path} cannot be written" in caplog.text
    path.rmdir()
    log.write({"line": 2})
    log.close()
    assert [line["line"] for line in lines_of(path)] == [2]


async def test_a_server_whose_audit_log_cannot_be_opened_does_not_start(new_rig: NewRig, tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"audit_log: .* cannot be written"):
        await new_rig(audit_log=tmp_path)

"""Secrets in requests, as the server handles them before a worker is there."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Any

import grpc

from lmms_eval_grpc.jobs.secrets import SECRETS_FILE
from lmms_eval_grpc.server.request_secrets import KEY_FILE, RequestDigests
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import job_pb2
from tests.scheduler.doubles import PATIENCE
from tests.server.conftest import TASK, NewRig, Rig, failure, violations

KEY = "plain-value-4711"


def secret_spec(**model_args: Any) -> job_pb2.EvaluationSpec:
    spec = job_pb2.EvaluationSpec(model="openai", tasks=[TASK])
    spec.model_args.update({"model": "m", "base_url": "http://localhost:1/v1", "api_key": KEY, **model_args})
    return spec


def holders(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()}


async def test_the_secret_is_in_one_file_until_the_job_has_ended(rig: Rig) -> None:
    job = await rig.submit(spec=secret_spec())
    assert job.evaluation.model_args["api_key"] == "[redacted]"
    assert (await rig.get(job.job_id)).evaluation.model_args["api_key"] == "[redacted]"
    execution = await rig.executor.execution(job.job_id)
    assert holders(rig.server.state_dir) == {SECRETS_FILE}
    assert KEY not in str(execution.job)
    await rig.stub.CancelJob(pb.CancelJobRequest(job_id=job.job_id))
    await rig.ended(job.job_id)
    await asyncio.to_thread(wait_until_gone, rig.job_dir(job.job_id) / SECRETS_FILE)
    assert holders(rig.server.state_dir) == set()


async def test_a_job_that_is_refused_leaves_no_folder(new_rig: NewRig) -> None:
    rig = await new_rig(max_queued_jobs=1)
    key = str(uuid.uuid4())
    first = await rig.submit(spec=secret_spec(), request_id=key)
    assert (await rig.submit(spec=secret_spec(), request_id=key)).job_id == first.job_id
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=secret_spec(api_key="other-key"), request_id=key)))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    folders = {path.parent.name for path in rig.server.state_dir.rglob(SECRETS_FILE)}
    assert folders == {first.job_id}


async def test_a_new_server_knows_the_request_and_clears_what_is_left(new_rig: NewRig) -> None:
    rig = await new_rig()
    key = str(uuid.uuid4())
    job, _ = await rig.running(spec=secret_spec(), request_id=key)
    await rig.server.stop(0)
    left = rig.server.state_dir / "jobs" / "gone"
    left.mkdir()
    (left / SECRETS_FILE).write_text(json.dumps({"fields": {}, "values": [KEY]}))
    (left / "worker.log").write_text(f"key {KEY}\n")
    again = await new_rig()
    assert (await again.submit(spec=secret_spec(), request_id=key)).job_id == job
    assert holders(again.server.state_dir) == {SECRETS_FILE}
    assert not (left / SECRETS_FILE).exists()
    assert (left / "worker.log").read_text() == f"key {'*' * len(KEY)}\n"


async def test_what_jobs_show_is_no_secret_to_send(rig: Rig) -> None:
    job = await rig.submit(spec=secret_spec(extra_headers={"X-Api-Key": "header-key-1"}))
    copied = (await rig.get(job.job_id)).evaluation
    found = violations(await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=copied))))
    assert set(found) == {"spec.model_args.api_key", "spec.model_args.extra_headers.X-Api-Key"}


async def test_a_refusal_does_not_quote_the_secret(rig: Rig) -> None:
    spec = secret_spec(
        max_retries=f"my key is {KEY}", timeout="https://user:pa55word@host", token="hf_abcdefghijklmnop"
    )
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=spec)))
    assert {"spec.model_args.max_retries", "spec.model_args.timeout", "spec.model_args.token"} <= set(violations(error))
    whole = f"{error.details()} {violations(error)}"
    assert not any(secret in whole for secret in (KEY, "pa55word", "hf_abc"))


async def test_a_refusal_does_not_quote_the_secret_in_pythons_quotes(rig: Rig) -> None:
    secret = "pass\\word'\"-é\u200b"
    error = await failure(
        rig.stub.Evaluate(pb.EvaluateRequest(spec=secret_spec(api_key=secret, max_retries=f"see {secret}")))
    )
    (told,) = [text for field, text in violations(error).items() if field == "spec.model_args.max_retries"]
    assert "[redacted]" in told
    assert "word" not in told


async def test_a_secret_is_hidden_in_every_place_of_the_arguments(rig: Rig) -> None:
    spec = secret_spec(extra_body={"user": f"team {KEY}"})
    spec.gen_kwargs["until"] = KEY
    job = await rig.submit(spec=spec)
    execution = await rig.executor.execution(job.job_id)
    assert KEY not in str(job)
    assert holders(rig.server.state_dir) == {SECRETS_FILE}
    kept = json.loads((rig.job_dir(job.job_id) / SECRETS_FILE).read_text())["fields"]
    assert kept["gen_kwargs"] == {"until": KEY}
    assert kept["model_args"]["extra_body"] == {"user": f"team {KEY}"}
    execution.complete()


def test_digests_tell_requests_apart_and_give_no_secret_away(tmp_path: Path) -> None:
    one, other = RequestDigests(b"1" * 32), RequestDigests(b"2" * 32)
    plain = pb.EvaluateRequest(spec=job_pb2.EvaluationSpec(model="m"), request_id="a")
    secret = pb.EvaluateRequest(spec=secret_spec(), request_id="a")
    assert one.of(plain) == other.of(plain)
    assert one.of(secret) != other.of(secret)
    changed = pb.EvaluateRequest(spec=secret_spec(api_key="another-value"))
    assert one.of(secret) != one.of(changed)
    secret.request_id, secret.validate_only = "b", True
    assert one.of(secret) == RequestDigests(b"1" * 32).of(secret)
    made = RequestDigests.of_state_dir(tmp_path)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert made.of(secret) == RequestDigests.of_state_dir(tmp_path).of(secret)


def wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while path.exists():
        assert time.monotonic() < deadline, f"{path} is still there"
        time.sleep(0.01)

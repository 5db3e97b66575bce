"""Single calls against a real server: lmms-eval's methods and dictionaries, retries, deadlines, typed errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from lmms_eval_grpc.client import EvalServiceError, InvalidRequest, JobNotFound, QueueFull, ServerUnavailable
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import job_pb2
from tests.client.scripted_server import Break, ScriptedServer, Servicer, details, retry_info, state_change

UNAVAILABLE = Break(grpc.StatusCode.UNAVAILABLE)


def test_health_has_lmms_evals_keys(client: Any, servicer: Servicer) -> None:
    servicer.add_job()
    told = client.health()
    assert told.keys() == {"status", "timestamp", "queue_size"}
    assert (told["status"], told["queue_size"]) == ("healthy", 1)
    assert datetime.fromisoformat(told["timestamp"]).tzinfo
    assert client.is_healthy() is True
    servicer.serving = False
    assert client.health()["status"] == "not serving"
    assert client.is_healthy() is False


def test_an_unreachable_server_is_unhealthy_and_says_why(make_client: Callable[..., Any]) -> None:
    client = make_client("127.0.0.1:1")
    assert client.is_healthy() is False
    with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1:1 cannot be reached"):
        client.list_tasks()


def test_waiting_for_a_server_that_is_about_to_start(client: Any, server: ScriptedServer) -> None:
    server.stop()
    with pytest.raises(ServerUnavailable, match="not ready within 1 s"):
        client.wait_for_ready(timeout=1)
    server.servicer.serving = False
    server.start()
    with pytest.raises(ServerUnavailable, match="not ready within 1 s"):
        client.wait_for_ready(timeout=1)
    server.servicer.serving = True
    client.wait_for_ready(timeout=30)


def test_lists_are_complete_and_plain(client: Any, servicer: Servicer) -> None:
    assert client.list_tasks() == ["digits", "mme", "mmmu"]
    assert servicer.calls["ListTasks"] == 2, "two pages"
    assert [task.name for task in client.list_tasks_detailed("m")] == ["mme", "mmmu"]
    assert client.list_models() == ["dummy"]
    assert client.list_models_detailed()[0].available
    assert client.server_info().instance_id == "x"


def test_evaluate_returns_lmms_evals_dictionary(client: Any, servicer: Servicer) -> None:
    first = client.evaluate("dummy", ["digits"])
    second = client.evaluate(model="dummy", tasks=["digits"], model_args={"pretrained": "/x"}, limit=3, priority=2)
    assert second.keys() == {"job_id", "status", "position_in_queue", "message"}
    assert (first["status"], first["position_in_queue"], second["position_in_queue"]) == ("queued", 0, 1)
    assert second["job_id"] in second["message"]
    assert servicer.jobs[second["job_id"]].evaluation.limit.count == 3
    assert servicer.jobs[second["job_id"]].priority == 2


def test_validate_only_queues_nothing(client: Any, servicer: Servicer) -> None:
    told = client.evaluate("dummy", ["digits"], validate_only=True)
    assert (told["job_id"], told["status"], told["position_in_queue"]) == (None, "valid", None)
    assert servicer.jobs == {}


def test_a_wrong_argument_is_refused_before_anything_is_sent(client: Any, servicer: Servicer) -> None:
    with pytest.raises(InvalidRequest, match=r"spec\.batch_size"):
        client.evaluate("dummy", ["digits"], batch_size="many")
    assert servicer.requests == []


def test_unavailable_is_retried_with_the_same_request_id(client: Any, servicer: Servicer) -> None:
    servicer.breaks["Evaluate"] = [UNAVAILABLE] * 3
    told = client.evaluate("dummy", ["digits"])
    assert servicer.calls["Evaluate"] == 4
    keys = {request.request_id for request in servicer.requests if isinstance(request, service.EvaluateRequest)}
    assert keys == {servicer.jobs[told["job_id"]].request_id}
    assert len(servicer.jobs) == 1


def test_retries_end(client: Any, servicer: Servicer) -> None:
    servicer.breaks["GetJob"] = [UNAVAILABLE] * 50
    with pytest.raises(ServerUnavailable, match="scripted"):
        client.get("job-1")
    assert servicer.calls["GetJob"] == 5


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED]
)
def test_nothing_else_is_retried(client: Any, servicer: Servicer, code: grpc.StatusCode) -> None:
    servicer.breaks["Evaluate"] = [Break(code, trailers=details("QUEUE_FULL", retry_info(7)))]
    with pytest.raises(EvalServiceError) as caught:
        client.evaluate("dummy", ["digits"])
    assert servicer.calls["Evaluate"] == 1
    assert caught.value.retry_after == 7
    assert isinstance(caught.value, QueueFull) == (code is grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_call_that_takes_too_long_is_given_up(make_client: Callable[..., Any], servicer: Servicer) -> None:
    servicer.add_job()
    servicer.delay["GetJob"] = 3
    start = time.monotonic()
    with pytest.raises(ServerUnavailable, match="did not answer in time"):
        make_client(timeout=0.5).get("job-1")
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("size", [9_000, 40_000])
def test_large_details_are_read(client: Any, servicer: Servicer, size: int) -> None:
    field = error_details_pb2.BadRequest.FieldViolation(field="spec.model", description="x" * size)
    bad = error_details_pb2.BadRequest(field_violations=[field])
    servicer.breaks["Evaluate"] = [Break(grpc.StatusCode.INVALID_ARGUMENT, "bad", details("INVALID_REQUEST", bad))]
    with pytest.raises(InvalidRequest) as caught:
        client.evaluate("dummy", ["digits"])
    assert len(caught.value.violations[0].description) == size


def test_oversized_and_garbled_details_still_give_a_typed_error(client: Any, servicer: Servicer) -> None:
    servicer.breaks["GetJob"] = [
        Break(grpc.StatusCode.INVALID_ARGUMENT, "bad", (("grpc-status-details-bin", b"\xff" * 100),)),
        Break(grpc.StatusCode.INVALID_ARGUMENT, "bad", (("grpc-status-details-bin", b"\xff" * 500_000),)),
    ]
    with pytest.raises(InvalidRequest, match="bad"):
        client.get("job-1")
    with pytest.raises(EvalServiceError):
        client.get("job-1")


def test_an_unknown_job_is_not_found(client: Any, servicer: Servicer) -> None:
    for call in (client.get, client.get_job, client.cancel_job, client.wait_for_job):
        with pytest.raises(JobNotFound, match="nobody") as caught:
            call("nobody")
        assert isinstance(caught.value.__cause__, grpc.RpcError)
        assert caught.value.reason == "JOB_NOT_FOUND"


def test_cancelling_is_told_in_words(client: Any, servicer: Servicer) -> None:
    servicer.add_job()
    told = client.cancel_job("job-1", reason="wrong checkpoint")
    assert (told["job_id"], told["status"]) == ("job-1", "cancelled")
    assert servicer.jobs["job-1"].cancel_reason == "wrong checkpoint"
    servicer.add_job("job-2")
    servicer.publish(state_change(job_pb2.JOB_STATE_COMPLETED), "job-2")
    assert client.cancel_job("job-2")["message"] == "Job job-2 had already completed."


def test_jobs_are_listed_through_all_pages(client: Any, servicer: Servicer) -> None:
    for number in range(7):
        servicer.add_job(f"job-{number}", labels={"half": str(number % 2)})
    servicer.publish(state_change(job_pb2.JOB_STATE_RUNNING), "job-2")
    assert [job.job_id for job in client.list_jobs(page_size=3)] == [f"job-{number}" for number in range(6, -1, -1)]
    assert servicer.calls["ListJobs"] == 3
    assert [job.job_id for job in client.list_jobs(["running"], {"half": "0"})] == ["job-2"]


def test_the_queue_has_lmms_evals_keys(client: Any, servicer: Servicer) -> None:
    servicer.add_job("a")
    servicer.add_job("b")
    servicer.publish(state_change(job_pb2.JOB_STATE_RUNNING), "a")
    told = client.get_queue_status()
    assert {"queue_size", "running_job", "queued_jobs", "completed_jobs", "failed_jobs"} <= told.keys()
    assert (told["queue_size"], told["running_job"], told["queued_jobs"]) == (1, "a", ["b"])
    servicer.publish(state_change(job_pb2.JOB_STATE_COMPLETED), "a")
    told = client.get_queue_status()
    assert (told["running_job"], told["completed_jobs"], told["failed_jobs"]) == (None, 1, 0)


def test_merging_waits_and_returns_lmms_evals_dictionary(client: Any, servicer: Servicer) -> None:
    told = client.merge_checkpoint("/ckpt", checkpoint_type="ema")
    assert told == {
        "success": True,
        "message": "The checkpoint is merged.",
        "merged_path": "/out",
        "job_id": "merge-1",
    }
    assert servicer.jobs["merge-1"].merge.checkpoint_kind == job_pb2.CHECKPOINT_KIND_EMA
    assert client.merge_checkpoint("/ckpt", wait=False)["job_id"] == "merge-1"
    assert client.get_job("merge-1")["request"]["checkpoint_type"] == "regular"


def test_a_large_answer_is_received(client: Any, servicer: Servicer) -> None:
    servicer.samples = [job_pb2.SampleRecord(task="digits", prompt="x" * 9_000_000)]
    [record] = client.iter_samples("job-1")
    assert len(record["prompt"]) == 9_000_000


def test_a_closed_client_says_so(client: Any, servicer: Servicer) -> None:
    client.list_models()
    client.close()
    client.close()
    for use in (client.list_models, client.health, lambda: list(client.watch_job("job-1"))):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_a_socket_file_is_an_address(make_client: Callable[..., Any], tmp_path: Path) -> None:
    server = ScriptedServer(socket=tmp_path / "eval.sock")
    assert make_client(server.address).list_models() == ["dummy"]
    server.stop()


def test_proxies_are_not_asked_about_this_machine(
    make_client: Callable[..., Any], server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    assert make_client(f"http://127.0.0.1:{server.port}").list_models() == ["dummy"]
    assert make_client(f"localhost:{server.port}").list_models() == ["dummy"]
    with pytest.raises(ServerUnavailable):
        make_client("eval.invalid:1", timeout=5).list_models()

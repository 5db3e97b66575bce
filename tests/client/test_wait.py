"""What `wait_for_job` promises to a trainer that comes from lmms-eval."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from lmms_eval_grpc.client import JobFailed, ServerUnavailable
from lmms_eval_grpc.v1 import job_pb2
from tests.client.scripted_server import Break, ScriptedServer, Servicer, progress, state_change, task_result

RUNNING, COMPLETED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_COMPLETED


def later(seconds: float, action: Callable[..., Any], *args: Any) -> None:
    threading.Timer(seconds, action, args).start()


def test_it_returns_what_get_job_returns_once_the_job_has_completed(client: Any, servicer: Servicer) -> None:
    servicer.add_job()
    servicer.jobs["job-1"].evaluation_result.results_json = '{"results": {"digits": {"exact_match,none": 0.5}}}'
    later(0.5, servicer.publish, state_change(COMPLETED))
    told = client.wait_for_job("job-1", poll_interval=3600, verbose=False)
    assert told == client.get_job("job-1")
    assert told["status"] == "completed"
    assert told["result"]["results"]["digits"]["exact_match,none"] == 0.5


def test_a_failed_job_raises_with_the_job(client: Any, servicer: Servicer) -> None:
    job = servicer.add_job()
    job.error.message, job.error.log_tail, job.error.reason = "no such checkpoint", "Traceback: …", "MODEL_LOAD_FAILED"
    later(0.3, servicer.publish, state_change(job_pb2.JOB_STATE_FAILED))
    with pytest.raises(RuntimeError, match=r"(?s)Job failed: no such checkpoint.*Traceback") as caught:
        client.wait_for_job("job-1", verbose=False)
    assert isinstance(caught.value, JobFailed)
    assert caught.value.job["error_info"]["reason"] == caught.value.reason == "MODEL_LOAD_FAILED"


def test_a_cancelled_job_is_returned(client: Any, servicer: Servicer) -> None:
    servicer.add_job()
    servicer.publish(task_result("digits"))
    later(0.3, servicer.publish, state_change(job_pb2.JOB_STATE_CANCELLED))
    told = client.wait_for_job("job-1", verbose=False)
    assert (told["status"], told["result"]) == ("cancelled", None)
    assert [result["task"] for result in told["task_results"]] == ["digits"]


@pytest.mark.parametrize("state", [COMPLETED, job_pb2.JOB_STATE_CANCELLED])
def test_a_job_that_had_ended_is_returned_at_once(client: Any, servicer: Servicer, state: int) -> None:
    servicer.add_job()
    servicer.publish(state_change(state))
    client.wait_for_job("job-1", timeout=20, verbose=False)
    assert servicer.calls["WatchJob"] == 0


def test_a_timeout_is_a_timeout_error_and_leaves_the_job_alone(client: Any, servicer: Servicer) -> None:
    servicer.add_job()
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"waiting for job job-1 took longer than 1 s"):
        client.wait_for_job("job-1", timeout=1, verbose=False)
    assert 0.9 <= time.monotonic() - start < 10
    assert servicer.jobs["job-1"].state == job_pb2.JOB_STATE_QUEUED


def test_the_timeout_holds_while_the_server_is_away(client: Any, server: ScriptedServer) -> None:
    server.servicer.add_job()
    later(0.5, server.stop)
    with pytest.raises(TimeoutError):
        client.wait_for_job("job-1", timeout=3, verbose=False)
    server.start()


def test_waiting_survives_a_restart_of_the_server(client: Any, server: ScriptedServer) -> None:
    servicer = server.servicer
    servicer.add_job()
    later(0.3, server.stop)

    def finish() -> None:
        servicer.publish(state_change(COMPLETED))
        # The result itself cannot be fetched at once either, for longer than grpc's own retries last.
        servicer.breaks["GetJob"] = [Break(grpc.StatusCode.UNAVAILABLE)] * 7
        server.start()

    later(1.5, finish)
    assert client.wait_for_job("job-1", verbose=False)["status"] == "completed"


def test_a_server_that_stays_away_ends_the_wait(make_client: Callable[..., Any], server: ScriptedServer) -> None:
    server.servicer.add_job()
    later(0.3, server.stop)
    with pytest.raises(ServerUnavailable, match="nothing heard"):
        make_client(reconnect_timeout=2).wait_for_job("job-1", verbose=False)
    server.start()


def test_progress_is_printed(client: Any, servicer: Servicer, capsys: pytest.CaptureFixture[str]) -> None:
    servicer.add_job(queue_position=2)

    def run() -> None:
        # The second progress comes too soon to be told.
        told = (progress(5, 10), progress(6, 10), task_result("digits"))
        for event in (state_change(RUNNING), *told, state_change(COMPLETED)):
            servicer.publish(event)

    later(0.3, run)
    client.wait_for_job("job-1")
    assert capsys.readouterr().out.splitlines() == [
        "Job job-1: queued (position: 2)",
        "Job job-1: running",
        "Job job-1: generating, 5 of 10 samples",
        "Job job-1: digits: exact_match 0.5 ± 0.1 (10 of 10 samples scored)",
        "Job job-1: completed",
    ]


def test_nothing_is_printed_when_not_verbose(
    client: Any, servicer: Servicer, capsys: pytest.CaptureFixture[str]
) -> None:
    servicer.add_job()
    servicer.publish(state_change(COMPLETED))
    client.wait_for_job("job-1", verbose=False)
    assert capsys.readouterr().out == ""


def test_a_server_that_forgets_the_end_is_not_hammered(client: Any, servicer: Servicer) -> None:
    """A watch that ends with OK although the job has not: a get finds it running, and the watch begins again."""
    servicer.add_job()
    servicer.break_after, servicer.end_early = 1, True
    later(2.0, servicer.publish, state_change(COMPLETED))
    assert client.wait_for_job("job-1", verbose=False)["status"] == "completed"
    assert servicer.calls["GetJob"] < 20

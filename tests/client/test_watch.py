"""Watches deliver each state change and task result exactly once, whatever happens to the connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from lmms_eval_grpc.client import JobNotFound, SequenceOutOfRange, ServerUnavailable, TooManyWatches
from lmms_eval_grpc.v1 import job_pb2
from tests.client.scripted_server import (
    Break,
    ScriptedServer,
    Servicer,
    details,
    progress,
    retry_info,
    state_change,
    task_result,
)


def run_job(servicer: Servicer, tasks: int = 12, job_id: str = "job-1") -> int:
    """Lets a job run to its end; returns the number of its events."""
    servicer.add_job(job_id)
    servicer.publish(state_change(job_pb2.JOB_STATE_RUNNING), job_id)
    for number in range(tasks):
        servicer.publish(progress(number, tasks), job_id)
        servicer.publish(task_result(f"task-{number}"), job_id)
    servicer.publish(state_change(job_pb2.JOB_STATE_COMPLETED), job_id)
    return len(servicer.events[job_id])


def test_a_watch_yields_all_events_and_ends(client: Any, servicer: Servicer) -> None:
    total = run_job(servicer)
    assert [event.sequence for event in client.watch_job("job-1")] == list(range(1, total + 1))
    assert servicer.calls["WatchJob"] == 1


def test_after_sequence_skips_what_was_seen(client: Any, servicer: Servicer) -> None:
    total = run_job(servicer)
    assert [event.sequence for event in client.watch_job("job-1", 5)] == list(range(6, total + 1))
    assert list(client.watch_job("job-1", total)) == []


@pytest.mark.parametrize("after", [1, 2, 3])
def test_breaks_every_few_messages_lose_and_repeat_nothing(client: Any, servicer: Servicer, after: int) -> None:
    total = run_job(servicer)
    servicer.break_after = after
    servicer.break_with = [
        Break(grpc.StatusCode.UNAVAILABLE),
        Break(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        Break(grpc.StatusCode.DEADLINE_EXCEEDED),
        Break(grpc.StatusCode.CANCELLED),
        Break(grpc.StatusCode.UNKNOWN, "Stream removed"),
    ]
    # One message per connection where the watch repeats one would never get on: that server is not this test's.
    servicer.repeat_events = after > 1
    assert [event.sequence for event in client.watch_job("job-1")] == list(range(1, total + 1))
    assert servicer.calls["WatchJob"] > total / 3


def test_a_server_that_ends_early_with_ok_is_asked_for_the_rest(client: Any, servicer: Servicer) -> None:
    total = run_job(servicer)
    servicer.break_after, servicer.end_early = 4, True
    assert [event.sequence for event in client.watch_job("job-1")] == list(range(1, total + 1))


def test_events_arrive_as_they_happen(client: Any, servicer: Servicer) -> None:
    servicer.add_job()
    watch = client.watch_job("job-1")
    assert next(watch).state_change.state == job_pb2.JOB_STATE_QUEUED
    for number in range(5):
        servicer.publish(task_result(f"task-{number}"))
        assert next(watch).task_result.task == f"task-{number}"
    servicer.publish(state_change(job_pb2.JOB_STATE_CANCELLED))
    assert [event.state_change.state for event in watch] == [job_pb2.JOB_STATE_CANCELLED]


def test_a_restarted_server_is_found_again(client: Any, server: ScriptedServer) -> None:
    server.servicer.add_job()
    watch = client.watch_job("job-1")
    next(watch)
    server.stop()
    restart = threading.Timer(1.0, server.start)
    restart.start()
    server.servicer.publish(task_result("digits"))
    server.servicer.publish(state_change(job_pb2.JOB_STATE_COMPLETED))
    assert [event.sequence for event in watch] == [2, 3]
    restart.join()


def test_three_missed_heartbeats_mean_a_new_connection(
    make_client: Callable[..., Any], servicer: Servicer, caplog: pytest.LogCaptureFixture
) -> None:
    total = run_job(servicer, tasks=1)
    servicer.silent_calls = 1
    client = make_client(heartbeat_interval=1)
    start = time.monotonic()
    assert len(list(client.watch_job("job-1"))) == total
    assert time.monotonic() - start >= 3
    assert servicer.calls["WatchJob"] == 2
    assert "trying again" in caplog.text


def test_heartbeats_keep_a_silent_watch_connected(make_client: Callable[..., Any], servicer: Servicer) -> None:
    servicer.add_job()
    end = threading.Timer(5.0, servicer.publish, [state_change(job_pb2.JOB_STATE_COMPLETED)])
    end.start()
    assert len(list(make_client(heartbeat_interval=1).watch_job("job-1"))) == 2
    assert servicer.calls["WatchJob"] == 1
    end.join()


def test_a_slow_reader_is_not_taken_for_a_silent_server(make_client: Callable[..., Any], servicer: Servicer) -> None:
    total = run_job(servicer, tasks=1)
    sequences = []
    for event in make_client(heartbeat_interval=1).watch_job("job-1"):
        sequences.append(event.sequence)
        time.sleep(3.5 if event.sequence == 2 else 0)
    assert sequences == list(range(1, total + 1))
    assert servicer.calls["WatchJob"] == 1


def test_a_draining_servers_advice_is_followed(client: Any, servicer: Servicer) -> None:
    total = run_job(servicer, tasks=1)
    servicer.break_after = 2
    servicer.break_with = [Break(grpc.StatusCode.UNAVAILABLE, trailers=details("NOT_ACCEPTING", retry_info(1.0)))]
    start = time.monotonic()
    assert len(list(client.watch_job("job-1"))) == total
    assert time.monotonic() - start >= 0.9


def test_a_server_that_stays_away_is_given_up_on(make_client: Callable[..., Any], server: ScriptedServer) -> None:
    server.servicer.add_job()
    watch = make_client(reconnect_timeout=2).watch_job("job-1")
    next(watch)
    server.stop()
    with pytest.raises(ServerUnavailable, match="reconnect_timeout") as caught:
        next(watch)
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    server.start()


def test_what_cannot_pass_is_raised_at_once(client: Any, servicer: Servicer) -> None:
    run_job(servicer)
    with pytest.raises(JobNotFound):
        list(client.watch_job("nobody"))
    with pytest.raises(SequenceOutOfRange):
        list(client.watch_job("job-1", 1000))
    servicer.breaks["WatchJob"] = [
        Break(grpc.StatusCode.RESOURCE_EXHAUSTED, trailers=details("TOO_MANY_WATCHES", retry_info(5)))
    ]
    with pytest.raises(TooManyWatches) as caught:
        list(client.watch_job("job-1"))
    assert caught.value.retry_after == 5
    before = servicer.calls["WatchJob"]
    servicer.breaks["WatchJob"] = [Break(grpc.StatusCode.INTERNAL, "internal error 17", details("INTERNAL"))]
    with pytest.raises(Exception, match="internal error 17"):
        list(client.watch_job("job-1"))
    assert servicer.calls["WatchJob"] == before + 1


def test_closing_the_client_ends_its_watches(make_client: Callable[..., Any], servicer: Servicer) -> None:
    servicer.add_job()
    client = make_client()
    watch = client.watch_job("job-1")
    next(watch)
    closing = threading.Timer(0.3, client.close)
    closing.start()
    with pytest.raises(RuntimeError, match="closed"):
        next(watch)
    closing.join()


def test_a_watch_that_is_left_frees_the_server(client: Any, servicer: Servicer) -> None:
    servicer.add_job()
    watch = client.watch_job("job-1")
    next(watch)
    watch.close()
    deadline = time.monotonic() + 10
    while servicer.open_watches and time.monotonic() < deadline:
        time.sleep(0.02)
    assert servicer.open_watches == 0


def test_watches_do_not_starve_calls(client: Any, servicer: Servicer) -> None:
    servicer.add_job()
    watches = [client.watch_job("job-1") for _ in range(8)]
    for watch in watches:
        next(watch)
    assert client.get("job-1").job_id == "job-1"
    for watch in watches:
        watch.close()


def test_the_queue_is_followed_through_breaks(client: Any, servicer: Servicer) -> None:
    servicer.break_after = 3
    watch = client.watch_queue()
    revisions = [next(watch).revision for _ in range(7)]
    assert revisions == [7, 1, 2, 7, 1, 2, 7]
    watch.close()


def test_samples_are_read_once_each_through_breaks(client: Any, servicer: Servicer) -> None:
    servicer.samples = [
        job_pb2.SampleRecord(task="digits", doc_id=number, outcome=job_pb2.SAMPLE_OUTCOME_OK, scores={"acc": 1})
        for number in range(20)
    ]
    servicer.break_after = 2
    records = list(client.iter_samples("job-1"))
    assert [record["doc_id"] for record in records] == list(range(20))
    assert records[0]["outcome"] == "ok"
    assert records[0]["scores"] == {"acc": 1.0}
    assert list(client.iter_samples("job-1", task="other")) == []


def test_logs_are_read_once_each_through_breaks(client: Any, servicer: Servicer) -> None:
    servicer.log = "".join(f"line {number}\n" for number in range(30)).encode()
    servicer.break_after = 3
    assert "".join(client.iter_logs("job-1")).encode() == servicer.log
    assert "".join(client.iter_logs("job-1", after_offset=-8)) == "line 29\n"

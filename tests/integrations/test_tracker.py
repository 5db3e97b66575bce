"""Lanes, the best checkpoint, hard-linked copies, and the tracker for plain loops."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from lmms_eval_grpc.integrations import pins as pins_module
from lmms_eval_grpc.integrations.lanes import Lane
from lmms_eval_grpc.integrations.pins import CannotPin, Pins
from lmms_eval_grpc.integrations.results import CheckpointResult, MetricScore, StepScores, find_best
from lmms_eval_grpc.integrations.tracker import EvalTracker
from lmms_eval_grpc.v1 import job_pb2
from tests.client.scripted_server import Break, ScriptedServer, details, state_change, task_result
from tests.integrations.test_trainer_callback import wait_until

COMPLETED = state_change(job_pb2.JOB_STATE_COMPLETED)
AWAY = [Break(grpc.StatusCode.UNAVAILABLE)] * 5
"""As many as one call of the client outlives, and one more."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


def result(step: int, value: float | None, *, lane: str = "full", higher: bool | None = None) -> CheckpointResult:
    score = [] if value is None else [MetricScore("mme", "score", "none", value, None, None, None, higher)]
    return CheckpointResult(step, f"/c/{step}", lane=lane, metrics=tuple(score))


def checkpoint(folder: Path, name: str = "checkpoint-1") -> Path:
    made = folder / name
    (made / "inner").mkdir(parents=True)
    for file in ("model.safetensors", "optimizer.pt", "inner/shard"):
        (made / file).write_text(file)
    return made


def newest_job(tracker: EvalTracker) -> str:
    wait_until(lambda: tracker.results[-1].job_id)
    return tracker.results[-1].job_id


# Lanes


def test_a_lane_is_due_at_its_interval_or_at_every_save() -> None:
    assert [step for step in range(1, 9) if Lane(every_steps=3).due_after_step(step)] == [3, 6]
    assert [epoch for epoch in range(1, 5) if Lane(every_epochs=2).due_after_epoch(epoch)] == [2, 4]
    assert Lane().at_every_save
    assert not Lane(every_steps=3).at_every_save


@pytest.mark.parametrize("settings", [{"every_steps": 0}, {"every_epochs": -1}, {"every_steps": 1, "every_epochs": 1}])
def test_a_lane_needs_one_interval_of_at_least_one(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="every_"):
        Lane(**settings)


# The best


def test_the_best_is_found_in_the_order_of_steps_whenever_results_came() -> None:
    best = find_best([result(3, 0.5), result(1, 0.4), result(4, 0.45), result(2, 0.5), result(5, None)], "mme/score")
    assert best is not None
    assert (best.result.step, best.value, best.later) == (2, 0.5, 2)


def test_what_counts_as_better_is_the_tasks_word_or_the_callers() -> None:
    errors = [result(1, 0.4, higher=False), result(2, 0.3, higher=False), result(3, 0.35, higher=False)]
    assert (best := find_best(errors, "mme/score")) is not None
    assert best.result.step == 2
    assert (best := find_best(errors, "mme/score", greater_is_better=True)) is not None
    assert best.result.step == 1
    assert (best := find_best([result(1, 0.4), result(2, 0.45)], "mme/score", min_delta=0.1)) is not None
    assert (best.result.step, best.later) == (1, 1)


def test_other_lanes_other_metrics_and_undefined_values_do_not_count() -> None:
    others = [result(1, 0.9, lane="fast"), result(2, float("nan")), result(3, 0.1)]
    assert (best := find_best(others, "mme/score")) is not None
    assert best.result.step == 3
    assert find_best(others, "mme/other") is None


# Copies


def test_a_copy_shares_the_files_that_inference_needs_until_the_last_lets_go(tmp_path: Path) -> None:
    original, pins = checkpoint(tmp_path), Pins()
    copy = pins.take(original, tmp_path / "pins")
    assert pins.take(original, tmp_path / "pins") == copy
    names = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert names == ["inner/shard", "model.safetensors"]
    assert (copy / "model.safetensors").samefile(original / "model.safetensors")
    pins.release(copy)
    assert copy.exists()
    pins.release(copy)
    pins.release(copy)
    assert not (tmp_path / "pins").exists()
    pins.release(original)
    assert original.exists(), "what is no copy is left alone"


def test_without_hard_links_the_checkpoint_itself_is_submitted_with_a_warning(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(pins_module.os, "link", refuse)
    with pytest.raises(CannotPin, match="cannot be hard-linked"):
        Pins().take(checkpoint(tmp_path), tmp_path / "pins")
    assert not (tmp_path / "pins" / "checkpoint-1").exists()
    tracker = EvalTracker(server.address, model="dummy", tasks=["digits"])
    place = tracker.submit(1, tmp_path / "checkpoint-1", pin_dir=tmp_path / "pins")
    assert place == str(tmp_path / "checkpoint-1")
    assert "Keep more checkpoints" in caplog.text
    server.servicer.publish(COMPLETED, newest_job(tracker))
    tracker.drain()


def test_without_hard_links_what_nobody_else_needs_is_moved(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(pins_module.os, "link", refuse)
    original = checkpoint(tmp_path, "export")
    tracker = EvalTracker(server.address, model="dummy", tasks=["digits"])
    places = {
        tracker.submit(1, original, lane=lane, pin_dir=tmp_path / "pins", may_move=True) for lane in ("full", "fast")
    }
    assert places == {str(tmp_path / "pins" / "export")}
    assert (tmp_path / "pins" / "export" / "model.safetensors").exists()
    wait_until(lambda: all(known.job_id for known in tracker.results))
    for known in tracker.results:
        server.servicer.publish(state_change(job_pb2.JOB_STATE_COMPLETED), known.job_id)
    tracker.drain()
    assert not original.exists()
    assert not (tmp_path / "pins").exists()


# The tracker


def test_a_plain_loop_gets_every_score_once_at_its_step(server: ScriptedServer, tmp_path: Path) -> None:
    tracker = EvalTracker(
        server.address, model="dummy", tasks=["digits", "mme"], labels={"run": "r"}, best_metric="digits/exact_match"
    )
    for step, value in ((10, 0.5), (20, 0.25)):
        place = tracker.submit(step, checkpoint(tmp_path, f"c-{step}"), pin_dir=tmp_path / "pins")
        job_id = newest_job(tracker)
        assert server.servicer.jobs[job_id].evaluation.model_args["pretrained"] == place
        server.servicer.publish(task_result("digits", value), job_id)
    wait_until(lambda: all(result.metrics for result in tracker.results))
    assert tracker.harvest() == [
        StepScores(10, "full", {"eval_service/digits/exact_match": 0.5}),
        StepScores(20, "full", {"eval_service/digits/exact_match": 0.25}),
    ]
    assert tracker.harvest() == []
    first = tracker.results[0].job_id
    server.servicer.publish(task_result("digits", 0.5), first)  # told again, as after a restart
    server.servicer.publish(task_result("mme", 0.1), first)
    for known in tracker.results:
        server.servicer.publish(state_change(job_pb2.JOB_STATE_COMPLETED), known.job_id)
    assert tracker.drain() == [StepScores(10, "full", {"eval_service/mme/exact_match": 0.1})]
    best = tracker.best()
    assert best is not None
    assert (best.result.step, best.value, best.later) == (10, 0.5, 1)
    assert [path.name for path in (tmp_path / "pins").iterdir()] == ["c-10"]


def test_a_lane_has_its_own_arguments_names_and_label(server: ScriptedServer) -> None:
    tracker = EvalTracker(server.address, model="dummy", tasks=["digits", "mme"])
    tracker.submit(5, "s3://bucket/c", lane="fast", tasks=["mme"], limit=8, priority=3)
    job = server.servicer.jobs[newest_job(tracker)]
    assert (list(job.evaluation.tasks), job.evaluation.limit.count, job.priority) == (["mme"], 8, 3)
    assert dict(job.labels) == {"step": "5", "lane": "fast"}
    assert job.evaluation.model_args["pretrained"] == "s3://bucket/c"
    server.servicer.publish(task_result("mme", 0.75), job.job_id)
    server.servicer.publish(COMPLETED, job.job_id)
    assert tracker.drain() == [StepScores(5, "fast", {"eval_service_fast/mme/exact_match": 0.75})]


def test_a_checkpoint_waits_for_a_server_that_is_away_while_training_goes_on(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    tracker = EvalTracker(server.address, model="dummy", tasks=["digits"], outage_timeout=0.1)
    with caplog.at_level(logging.WARNING):
        tracker.submit(1, "/c")
        wait_until(lambda: "evaluation of step 1 waits" in caplog.text)
    assert tracker.results[0].state == "submitting"
    server.start()
    server.servicer.publish(COMPLETED, newest_job(tracker))
    tracker.drain()
    assert tracker.results[0].state == "completed"


def test_nothing_waits_while_a_large_checkpoint_goes(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, go_on, in_time, remove = threading.Event(), threading.Event(), [], pins_module.shutil.rmtree

    def remove_slowly(folder: Path, ignore_errors: bool) -> None:
        if "c-1" in folder.name and folder.exists():
            going.set()
            in_time.append(go_on.wait(30))
        remove(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr(pins_module.shutil, "rmtree", remove_slowly)
    tracker = EvalTracker(server.address, model="dummy", tasks=["digits"])
    tracker.submit(1, checkpoint(tmp_path, "c-1"), pin_dir=tmp_path / "pins")
    server.servicer.publish(COMPLETED, newest_job(tracker))
    wait_until(going.is_set)
    tracker.harvest()
    tracker.submit(2, checkpoint(tmp_path, "c-2"), pin_dir=tmp_path / "pins")
    go_on.set()
    server.servicer.publish(COMPLETED, newest_job(tracker))
    tracker.drain()
    assert in_time == [True]
    assert not (tmp_path / "pins").exists()


@pytest.mark.parametrize(
    "breaks",
    [
        [Break(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2")],
        [Break(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", details("QUEUE_FULL")), *AWAY],
        [Break(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", details("TOO_MANY_JOBS"))],
        [Break(grpc.StatusCode.RESOURCE_EXHAUSTED, "too fast", details("TOO_MANY_SUBMISSIONS"))],
    ],
    ids=["a proxy that resets the call", "a full queue, then a restart", "too many jobs", "too many submissions"],
)
def test_what_may_pass_loses_no_checkpoint_at_the_end_either(server: ScriptedServer, breaks: list[Break]) -> None:
    server.servicer.breaks["Evaluate"] = [*breaks]
    tracker = EvalTracker(server.address, model="dummy", tasks=["digits"], outage_timeout=0.3)
    with ThreadPoolExecutor() as pool:
        tracker.submit(1, "/c")
        drained = pool.submit(tracker.drain)
        wait_until(lambda: tracker.results[0].ended or bool(tracker.results[0].job_id))
        if tracker.results[0].job_id:
            server.servicer.publish(COMPLETED, tracker.results[0].job_id)
        drained.result()
    assert (tracker.results[0].state, tracker.results[0].error) == ("completed", "")


def test_groups_are_not_lost_when_the_server_restarts_at_the_end(server: ScriptedServer) -> None:
    server.servicer.breaks["GetJob"] = [*AWAY]
    tracker = EvalTracker(server.address, model="dummy", tasks=["digits"])
    with ThreadPoolExecutor() as pool:
        tracker.submit(1, "/c")
        job_id = newest_job(tracker)
        group = server.servicer.jobs[job_id].evaluation_result.group_results.add(group="both")
        group.metrics.add(name="exact_match", filter="none", value=0.5)
        drained = pool.submit(tracker.drain)
        wait_until(tracker._draining.is_set)
        server.servicer.publish(COMPLETED, job_id)
        assert drained.result() == [StepScores(1, "full", {"eval_service/both/exact_match": 0.5})]


def test_a_request_that_is_refused_is_not_repeated(server: ScriptedServer) -> None:
    server.servicer.breaks["Evaluate"] = [Break(grpc.StatusCode.INVALID_ARGUMENT, "no such task")]
    tracker = EvalTracker(server.address, model="dummy", tasks=["digits"])
    tracker.submit(1, "/c")
    wait_until(lambda: tracker.results[0].ended)
    assert (tracker.results[0].state, tracker.results[0].error) == ("not submitted", "no such task")
    assert server.servicer.calls["Evaluate"] == 1


def test_the_best_needs_a_metric(server: ScriptedServer) -> None:
    with pytest.raises(ValueError, match="best_metric is not set"):
        EvalTracker(server.address, model="dummy", tasks=["digits"]).best()

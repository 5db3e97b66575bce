"""The Trainer callback against a server that takes its time, fails, or goes away; the tests play the Trainer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from lmms_eval_grpc.integrations.transformers import EvalServiceCallback
from lmms_eval_grpc.v1 import job_pb2
from tests.client.scripted_server import ScriptedServer, state_change, task_result

RUNNING, COMPLETED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_COMPLETED
CONTROL = TrainerControl()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])


def callback(server: ScriptedServer, **settings: float) -> EvalServiceCallback:
    return EvalServiceCallback(server.address, model="dummy", tasks=["digits"], labels={"run": "r"}, **settings)


def at_step(state: TrainerState, step: int) -> TrainerState:
    state.global_step = step
    return state


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def newest_job(service: EvalServiceCallback) -> str:
    """The id of the newest checkpoint's job, once it is submitted."""
    wait_until(lambda: service.results[-1].job_id)
    return service.results[-1].job_id


def test_scores_are_logged_at_the_step_of_their_checkpoint(
    server: ScriptedServer, arguments: TrainingArguments
) -> None:
    service, state = callback(server), TrainerState()
    service.on_save(arguments, at_step(state, 100), CONTROL)
    job_id = newest_job(service)
    submitted = server.servicer.jobs[job_id]
    assert submitted.evaluation.model_args["pretrained"] == str(Path(arguments.output_dir) / "checkpoint-100")
    assert dict(submitted.labels) == {"run": "r", "step": "100"}

    service.on_step_end(arguments, at_step(state, 101), CONTROL)
    assert state.log_history == []
    for event in (state_change(RUNNING), task_result("digits", 0.75), state_change(COMPLETED)):
        server.servicer.publish(event, job_id)
    wait_until(lambda: service.results[0].ended)
    service.on_step_end(arguments, at_step(state, 150), CONTROL)
    service.on_step_end(arguments, at_step(state, 151), CONTROL)
    assert state.log_history == [{"eval_service/digits/exact_match": 0.75, "step": 100}]
    [result] = service.results
    assert (result.state, result.metrics[0].value, result.metrics[0].standard_error) == ("completed", 0.75, 0.1)


def test_results_of_a_running_job_are_there_before_its_end(
    server: ScriptedServer, arguments: TrainingArguments
) -> None:
    service = callback(server)
    service.on_save(arguments, at_step(TrainerState(), 1), CONTROL)
    job_id = newest_job(service)
    server.servicer.publish(state_change(RUNNING), job_id)
    server.servicer.publish(task_result("digits", 0.5), job_id)
    wait_until(lambda: service.results[0].metrics)
    assert service.results[0].state == "running"
    server.servicer.publish(state_change(COMPLETED), job_id)


def test_a_save_does_not_wait_for_the_server(server: ScriptedServer, arguments: TrainingArguments) -> None:
    server.servicer.delay["Evaluate"] = 3
    service = callback(server)
    start = time.monotonic()
    service.on_save(arguments, at_step(TrainerState(), 1), CONTROL)
    assert time.monotonic() - start < 1
    assert service.results[0].state == "submitting"


def test_the_end_of_training_waits_for_what_is_outstanding(
    server: ScriptedServer, arguments: TrainingArguments
) -> None:
    service, state = callback(server), TrainerState()
    for step in (1, 2):
        service.on_save(arguments, at_step(state, step), CONTROL)
        job_id = newest_job(service)
        delayed = threading.Timer(0.5 * step, server.servicer.publish, [state_change(COMPLETED), job_id])
        server.servicer.publish(task_result("digits", step / 10), job_id)
        delayed.start()
    service.on_train_end(arguments, state, CONTROL)
    assert state.log_history == [
        {"eval_service/digits/exact_match": 0.1, "step": 1},
        {"eval_service/digits/exact_match": 0.2, "step": 2},
    ]


def test_waiting_at_the_end_is_bounded_and_late_results_still_come(
    server: ScriptedServer, arguments: TrainingArguments, caplog: pytest.LogCaptureFixture
) -> None:
    service = callback(server, drain_timeout=0.5)
    service.on_save(arguments, at_step(TrainerState(), 7), CONTROL)
    job_id = newest_job(service)
    service.on_train_end(arguments, TrainerState(), CONTROL)
    assert f"step 7: {job_id}" in caplog.text
    assert server.servicer.jobs[job_id].state == job_pb2.JOB_STATE_QUEUED
    server.servicer.publish(state_change(COMPLETED), job_id)
    wait_until(lambda: service.results[0].state == "completed")


def test_a_failed_evaluation_is_a_warning(
    server: ScriptedServer, arguments: TrainingArguments, caplog: pytest.LogCaptureFixture
) -> None:
    service, state = callback(server), TrainerState()
    service.on_save(arguments, at_step(state, 3), CONTROL)
    failure = job_pb2.JobError(message="no such checkpoint")
    job_id = newest_job(service)
    server.servicer.publish(state_change(job_pb2.JOB_STATE_FAILED, error=failure), job_id)
    with caplog.at_level(logging.WARNING):
        service.on_train_end(arguments, state, CONTROL)
    assert service.results[0].error == "no such checkpoint"
    assert "step 3" in caplog.text
    assert "no such checkpoint" in caplog.text
    assert state.log_history == []


def test_a_result_stays_when_the_server_goes_away_right_after(
    server: ScriptedServer, arguments: TrainingArguments
) -> None:
    service = callback(server)
    service.on_save(arguments, at_step(TrainerState(), 1), CONTROL)
    job_id = newest_job(service)
    server.servicer.delay["GetJob"] = 1
    server.servicer.publish(task_result("digits", 0.5), job_id)
    server.servicer.publish(state_change(COMPLETED), job_id)
    wait_until(lambda: server.servicer.calls["GetJob"])
    server.stop()
    service.on_train_end(arguments, TrainerState(), CONTROL)
    assert service.results[0].state == "completed"
    server.start()


def test_the_callback_serves_a_second_training(server: ScriptedServer, arguments: TrainingArguments) -> None:
    service = callback(server)
    for step in (1, 2):
        service.on_save(arguments, at_step(TrainerState(), step), CONTROL)
        job_id = newest_job(service)
        server.servicer.publish(state_change(COMPLETED), job_id)
        service.on_train_end(arguments, TrainerState(), CONTROL)
    assert [result.state for result in service.results] == ["completed", "completed"]


def test_a_wrong_address_is_refused_when_the_callback_is_made() -> None:
    with pytest.raises(ValueError, match="no port"):
        EvalServiceCallback("localhost", model="dummy", tasks=["digits"])

"""``watch``: what is seen of a job's life, and the exit code of its outcome."""

from __future__ import annotations

import json
import math
import signal
import sys

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.watchers import PROGRESS_INTERVAL, LineWatcher
from lmms_eval_grpc.jobs.events import Completed, Failed
from lmms_eval_grpc.jobs.results import (
    EvaluationResult,
    GroupResult,
    JobError,
    JobErrorCode,
    Metric,
    TaskResult,
)
from lmms_eval_grpc.v1 import job_pb2
from tests.cli.conftest import TASK, Rig, Terminal, command, interrupt, read_until, run_on_terminal
from tests.jobs.examples import progress, result

RESULT = TaskResult(
    TASK,
    "1",
    (
        Metric("exact_match", "none", 0.75, 0.043, 0.66, 0.84, 0.95, "t", True, 100),
        Metric("anls", "strict", math.nan),
    ),
    100,
    98,
    2,
)
OUTCOME = EvaluationResult((RESULT,), (GroupResult("vision", "1", (Metric("exact_match", "none", 0.7),), (TASK,)),))
ERROR = JobError(
    JobErrorCode.WORKER_DIED,
    "WORKER_KILLED",
    "the worker was killed by SIGKILL",
    {"signal": "SIGKILL"},
    "loading\nboom\n",
)


def test_a_completed_job_ends_with_its_results(rig: Rig) -> None:
    job_id = rig.submit()
    process = rig.begin("watch", job_id)
    assert process.stdout is not None
    assert job_id in process.stdout.readline()
    rig.tell(job_id, progress(30, task=TASK, task_samples_done=30, task_samples_total=100))
    read_until(process, lambda line: f"generating {TASK} 30/100 (30%)" in line)
    rig.tell(job_id, RESULT, Completed(OUTCOME))
    text, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.OK
    assert errors == ""
    lines = text.splitlines()
    assert any(f"task {TASK}: exact_match 0.75 ± 0.043; anls (strict) undefined" in line for line in lines)
    assert any(line.endswith("completed") for line in lines)
    row = next(line for line in lines if line.startswith(TASK) and "exact_match" in line)
    for cell in ("0.75 ± 0.043", "95% 0.66 … 0.84", "98, 2 errored"):
        assert cell in row
    assert any(line.startswith("group vision") and "0.7" in line for line in lines)


def test_a_failed_job_tells_why_and_shows_the_log(rig: Rig) -> None:
    job_id = rig.submit()
    rig.finish(job_id, Failed(ERROR))
    done = rig.run("watch", job_id)
    assert done.returncode == ExitCode.JOB_FAILED
    assert "the worker was killed by SIGKILL" in done.stdout
    assert "WORKER_KILLED" in done.stdout
    assert "  boom" in done.stdout.splitlines()


def test_a_job_that_fails_while_it_is_watched(rig: Rig) -> None:
    job_id = rig.submit()
    process = rig.begin("watch", job_id)
    read_until(process, lambda line: job_id in line)
    rig.tell(job_id, Failed(ERROR))
    process.communicate(timeout=60)
    assert process.returncode == ExitCode.JOB_FAILED


def test_a_cancelled_job_keeps_the_results_of_finished_tasks(rig: Rig) -> None:
    job_id = rig.submit()
    rig.tell(job_id, RESULT)
    process = rig.begin("watch", job_id)
    read_until(process, lambda line: job_id in line)
    done = rig.run("cancel", job_id, "--reason", "wrong checkpoint")
    assert done.returncode == ExitCode.OK
    text, _ = process.communicate(timeout=60)
    assert process.returncode == ExitCode.CANCELLED
    assert "cancelled: wrong checkpoint" in text
    assert "0.75 ± 0.043" in text


def test_as_json_there_is_a_snapshot_then_events_then_a_snapshot(rig: Rig) -> None:
    job_id = rig.submit()
    process = rig.begin("watch", job_id, "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["snapshot"]["job_id"] == job_id
    rig.tell(job_id, RESULT, Completed(OUTCOME))
    text, _ = process.communicate(timeout=60)
    assert process.returncode == ExitCode.OK
    *events, last = [json.loads(line) for line in text.splitlines()]
    assert all(set(event) == {"event"} for event in events)
    sequences = [int(event["event"]["sequence"]) for event in events]
    assert sequences == sorted(set(sequences))
    (told,) = [event["event"]["task_result"] for event in events if "task_result" in event["event"]]
    assert [metric["value"] for metric in told["metrics"]] == [0.75, "NaN"]
    assert events[-1]["event"]["state_change"]["state"] == "JOB_STATE_COMPLETED"
    assert last["snapshot"]["state"] == "JOB_STATE_COMPLETED"
    assert last["snapshot"]["evaluation_result"]["group_results"][0]["group"] == "vision"


def test_a_job_that_has_ended_is_one_snapshot(rig: Rig) -> None:
    job_id = rig.submit()
    rig.finish(job_id, Completed(result(TASK)))
    (only,) = rig.records("watch", job_id)
    assert only["snapshot"]["state"] == "JOB_STATE_COMPLETED"


def test_interrupting_tells_that_the_job_goes_on(rig: Rig) -> None:
    job_id = rig.submit()
    rig.execution(job_id)
    process = rig.begin("watch", job_id)
    read_until(process, lambda line: job_id in line)
    _, errors = interrupt(process)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "goes on" in errors
    assert f"lmms-eval-grpc cancel {job_id}" in errors
    assert "Traceback" not in errors
    with rig.client() as client:
        assert client.get(job_id).state == job_pb2.JOB_STATE_RUNNING


def test_on_a_terminal_there_are_bars(rig: Rig) -> None:
    job_id = rig.submit()

    def act(terminal: Terminal) -> None:
        terminal.wait_for(job_id)
        rig.tell(
            job_id,
            progress(30, task=TASK, task_samples_done=30, task_samples_total=100, samples_per_second=8.0,
                     remaining_seconds=75.0),
        )  # fmt: skip
        terminal.wait_for("30/100")
        terminal.wait_for("8 samples/s, 1 min 15 s left")
        rig.tell(job_id, RESULT, Completed(OUTCOME))

    status, text = run_on_terminal(command("watch", job_id), rig.environment(), act)
    assert status == ExitCode.OK
    assert "━" in text
    assert "\x1b[" in text
    assert "100/100" in text
    assert "0.75 ± 0.043" in text
    assert text.endswith("\n")


def test_the_terminal_is_left_in_order_after_an_interrupt(rig: Rig) -> None:
    job_id = rig.submit()
    rig.execution(job_id)

    def act(terminal: Terminal) -> None:
        terminal.wait_for(job_id)
        terminal.send_signal(signal.SIGINT)

    status, text = run_on_terminal(command("watch", job_id), rig.environment(), act)
    assert status == ExitCode.INTERRUPTED
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor stays hidden"
    assert f"lmms-eval-grpc cancel {job_id}" in text


def test_plain_lines_can_be_asked_for_on_a_terminal(rig: Rig) -> None:
    job_id = rig.submit()
    rig.finish(job_id, Completed(OUTCOME))
    for words, changes in ((("watch", job_id, "--plain"), {}), (("watch", job_id), {"TERM": "dumb"})):
        status, text = run_on_terminal(command(*words), rig.environment(**changes))
        assert status == ExitCode.OK
        assert "\x1b" not in text
        assert f"job {job_id}: completed" in text


def test_without_rich_a_terminal_gets_plain_lines(rig: Rig) -> None:
    job_id = rig.submit()
    rig.finish(job_id, Completed(OUTCOME))
    program = "import sys; sys.modules['rich'] = None; from lmms_eval_grpc.cli import main; sys.exit(main())"
    for words in (("watch", job_id), ("jobs",), ("job", job_id), ("info",), ("tasks",), ("models",), ("queue",)):
        status, text = run_on_terminal([sys.executable, "-c", program, *words], rig.environment())
        assert status == ExitCode.OK, text
        assert "\x1b" not in text


class Clock:
    """Time that passes when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def progressed(done: int, stage: int = job_pb2.JOB_STAGE_GENERATING, task: str = TASK) -> job_pb2.JobEvent:
    event = job_pb2.JobEvent(sequence=done)
    event.progress.stage = stage  # type: ignore[assignment]
    event.progress.task = task
    event.progress.task_samples_done = done
    event.progress.task_samples_total = 100
    return event


def test_progress_lines_are_rare_but_each_stage_and_task_is_told_at_once() -> None:
    clock, lines = Clock(), list[str]()
    watcher = LineWatcher(lines.append, "job-1", clock)
    for done in range(1, 50):
        watcher.show_event(progressed(done))
    assert len(lines) == 1
    clock.now += PROGRESS_INTERVAL
    watcher.show_event(progressed(60))
    watcher.show_event(progressed(61))
    assert len(lines) == 2
    watcher.show_event(progressed(1, task="other"))
    watcher.show_event(progressed(2, stage=job_pb2.JOB_STAGE_SCORING, task="other"))
    assert len(lines) == 4


def test_a_restarted_job_is_told_with_its_attempt() -> None:
    lines: list[str] = []
    watcher = LineWatcher(lines.append, "job job-1")
    watcher.show_job(job_pb2.Job(job_id="job-1", state=job_pb2.JOB_STATE_RUNNING, attempt=1))
    event = job_pb2.JobEvent(sequence=9)
    event.state_change.state = job_pb2.JOB_STATE_QUEUED
    event.state_change.attempt = 1
    event.state_change.reason = "server restarted"
    watcher.show_event(event)
    event.state_change.state = job_pb2.JOB_STATE_RUNNING
    event.state_change.attempt = 2
    event.state_change.reason = ""
    watcher.show_event(event)
    assert lines[0] == "job job-1: running"
    assert lines[1].endswith("queued: server restarted")
    assert lines[2].endswith("running (attempt 2)")

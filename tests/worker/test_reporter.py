"""What a worker reports, and how often."""

from __future__ import annotations

import pytest

from lmms_eval_grpc.engine.api import MetricScore, ProgressReport, Stage, TaskScore
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.results import JobError, JobStage, Progress, TaskResult
from lmms_eval_grpc.worker import frames
from lmms_eval_grpc.worker import main as worker_main
from lmms_eval_grpc.worker.reporter import HEARTBEAT_INTERVAL, MIN_INTERVAL, JobReporter
from lmms_eval_grpc.worker.v1.worker_pb2 import RunCancelled, WorkerEvent


class _Wire:
    """A reporter, what it sent, and its clock."""

    def __init__(self) -> None:
        self.events: list[WorkerEvent] = []
        self.now = 100.0
        self.reporter = JobReporter(self.events.append, lambda: False, lambda: self.now)

    def progress(self, done: int, stage: Stage = Stage.GENERATING) -> None:
        self.reporter.progress(ProgressReport(stage, samples_done=done))

    def seen(self) -> list[tuple[JobStage, int] | str]:
        seen: list[tuple[JobStage, int] | str] = []
        for event in self.events:
            if event.HasField("progress_json"):
                progress = codec.decode(Progress, event.progress_json)
                seen.append((progress.stage, progress.samples_done))
            else:
                seen.append(str(event.WhichOneof("event")))
        return seen


def test_progress_within_the_interval_is_held_back_and_only_the_newest_is_sent() -> None:
    wire = _Wire()
    for done in range(10):
        wire.progress(done)
    assert wire.seen() == [(JobStage.GENERATING, 0)]
    wire.now += 2 * MIN_INTERVAL
    wire.reporter.tick()
    wire.reporter.tick()
    assert wire.seen() == [(JobStage.GENERATING, 0), (JobStage.GENERATING, 9)]


def test_nothing_is_flushed_before_its_time() -> None:
    wire = _Wire()
    wire.progress(0)
    wire.progress(1)
    wire.reporter.tick()
    assert wire.seen() == [(JobStage.GENERATING, 0)]


def test_a_change_of_stage_is_sent_at_once_after_what_was_held_back() -> None:
    wire = _Wire()
    wire.progress(0)
    wire.progress(8)
    wire.progress(8, Stage.SCORING)
    assert wire.seen() == [(JobStage.GENERATING, 0), (JobStage.GENERATING, 8), (JobStage.SCORING, 8)]


def test_a_task_result_and_the_last_word_come_after_the_progress_that_led_to_them() -> None:
    wire = _Wire()
    wire.progress(0)
    wire.progress(1)
    score = TaskScore("t", "1.0", (MetricScore("acc", "none", 0.5, sample_count=2),), 2, 2, 0)
    wire.reporter.task_finished(score)
    wire.progress(2)
    wire.reporter.finish(WorkerEvent(cancelled=RunCancelled()))
    assert wire.seen() == [
        (JobStage.GENERATING, 0),
        (JobStage.GENERATING, 1),
        "task_result_json",
        (JobStage.GENERATING, 2),
        "cancelled",
    ]
    assert codec.decode(TaskResult, wire.events[2].task_result_json).metrics[0].value == 0.5


def beats(wire: _Wire) -> list[int]:
    """The steps that heartbeats told."""
    return [event.heartbeat.steps for event in wire.events if event.HasField("heartbeat")]


def test_a_heartbeat_comes_in_its_interval_and_tells_whether_anything_moves() -> None:
    wire = _Wire()
    wire.reporter.tick()
    assert beats(wire) == []
    for samples in (0, 1, 1, 1):
        wire.reporter.progress(ProgressReport(Stage.SCORING, samples_scored=samples, samples_per_second=wire.now))
        wire.now += HEARTBEAT_INTERVAL
        wire.reporter.tick()
        wire.reporter.tick()
    assert beats(wire) == [1, 2, 2, 2]


def test_nothing_follows_the_last_word() -> None:
    wire = _Wire()
    wire.reporter.finish(WorkerEvent(cancelled=RunCancelled()))
    wire.now += 10 * HEARTBEAT_INTERVAL
    wire.reporter.tick()
    assert wire.seen() == ["cancelled"]


def test_a_result_that_is_too_large_to_be_sent_is_told_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 1000)
    sent: list[bytes] = []
    reporter = JobReporter(lambda event: sent.append(frames.encode_frame(event)), lambda: False)
    worker_main.finish(reporter, WorkerEvent(completed_json="x" * 2000))
    buffer = frames.FrameBuffer()
    buffer.feed(b"".join(sent))
    last = buffer.take(WorkerEvent)
    assert last is not None
    assert codec.decode(JobError, last.failed_json).reason == "RESULT_TOO_LARGE"
    assert buffer.empty

"""What a notebook's cell shows while a job is waited for. A real kernel runs `clients/python/notebook.ipynb`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lmms_eval_grpc.client import narration
from lmms_eval_grpc.v1 import job_pb2
from tests.client.scripted_server import Servicer, progress, state_change, task_result


class Display:
    """One output of a cell, with all that it ever showed."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def __call__(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Display:
        assert raw
        assert display_id
        assert not self.shown, "one display, then updates"
        self.shown.append(bundle)
        return self

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(bundle)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[Display]:
    pytest.importorskip("IPython")
    display = Display()
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(narration, "in_notebook", lambda: True)
    return display


def test_one_output_is_updated_in_place(
    client: Any, servicer: Servicer, display: Display, capsys: pytest.CaptureFixture[str]
) -> None:
    servicer.add_job(queue_position=2)

    def run() -> None:
        events = (progress(5, 10), progress(6, 10), task_result("digits"), state_change(job_pb2.JOB_STATE_COMPLETED))
        for event in (state_change(job_pb2.JOB_STATE_RUNNING), *events):
            servicer.publish(event)

    threading.Timer(0.3, run).start()
    client.wait_for_job("job-1")
    bars = [shown["text/html"] for shown in display.shown if "<progress" in shown["text/html"]]
    assert [bar.partition("<progress ")[2].partition(">")[0] for bar in bars] == [
        'max="10" value="5"',
        'max="10" value="6"',
    ]
    last = display.shown[-1]
    assert last["text/plain"].splitlines() == [
        "Job job-1: queued (position: 2)",
        "Job job-1: running",
        "Job job-1: digits: exact_match 0.5 ± 0.1 (10 of 10 samples scored)",
        "Job job-1: completed",
    ]
    assert "<progress" not in last["text/html"]
    assert capsys.readouterr().out == ""


def test_not_verbose_shows_nothing(client: Any, servicer: Servicer, display: Display) -> None:
    servicer.add_job()
    servicer.publish(state_change(job_pb2.JOB_STATE_COMPLETED))
    client.wait_for_job("job-1", verbose=False)
    assert display.shown == []


def test_outside_a_kernel_lines_are_printed() -> None:
    assert not narration.in_notebook()
    assert type(narration.make_narrator("job-1", verbose=True)) is narration.Narrator

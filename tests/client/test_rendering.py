"""How notebooks show jobs and results."""

from __future__ import annotations

import json
import math
import pickle
from html.parser import HTMLParser

import pytest

from lmms_eval_grpc.client import dictionaries, rendering
from lmms_eval_grpc.v1 import job_pb2

NASTY = "<script>alert('x')</script>&\"'"


class Tags(HTMLParser):
    """All tags, and all text, of what a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def nasty_job() -> job_pb2.Job:
    """One whose every text would do harm if a browser took it for HTML."""
    interval = job_pb2.ConfidenceInterval(lower=0.4, upper=0.6, level=0.95)
    metric = job_pb2.Metric(name=NASTY, filter=NASTY, value=0.5, standard_error=0.05, confidence_interval=interval)
    job = job_pb2.Job(
        job_id=NASTY,
        kind=job_pb2.JOB_KIND_EVALUATION,
        state=job_pb2.JOB_STATE_FAILED,
        labels={NASTY: NASTY},
        cancel_reason=NASTY,
        evaluation=job_pb2.EvaluationSpec(model=NASTY, tasks=[NASTY]),
        task_results=[job_pb2.TaskResult(task=NASTY, metrics=[metric, job_pb2.Metric(name="loss", value=math.nan)])],
    )
    job.error.message, job.error.log_tail = NASTY, NASTY
    return job


def test_every_text_is_escaped() -> None:
    shown = Tags(dictionaries.job(nasty_job())._repr_html_())
    assert shown.tags <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "pre"}
    assert shown.text.count(NASTY) == 12
    assert "0.5" in shown.text
    assert "95% 0.4 … 0.6" in shown.text
    assert "undefined" in shown.text


def test_while_waiting_too() -> None:
    shown = Tags(rendering.render_wait(NASTY, [NASTY], NASTY, 3, 10))
    assert shown.tags == {"div", "progress"}
    assert shown.text.count(NASTY) == 3


def test_a_result_shows_tasks_and_groups() -> None:
    job = job_pb2.Job(kind=job_pb2.JOB_KIND_EVALUATION, state=job_pb2.JOB_STATE_COMPLETED)
    job.evaluation_result.task_results.add(task="digits", metrics=[job_pb2.Metric(name="acc", value=0.25)])
    job.evaluation_result.group_results.add(group="all", metrics=[job_pb2.Metric(name="acc", value=0.75)])
    told = dictionaries.job(job)
    shown = Tags(told["result"]._repr_html_())
    for words in ("digits", "0.25", "group all", "0.75"):
        assert words in shown.text
    assert shown.text in Tags(told._repr_html_()).text


def test_a_running_job_shows_a_bar() -> None:
    job = job_pb2.Job(kind=job_pb2.JOB_KIND_EVALUATION, state=job_pb2.JOB_STATE_RUNNING)
    job.progress.stage, job.progress.samples_done, job.progress.samples_total = job_pb2.JOB_STAGE_GENERATING, 3, 10
    assert '<progress max="10" value="3">' in dictionaries.job(job)._repr_html_()


@pytest.mark.parametrize("state", job_pb2.JobState.values())
def test_a_merge_and_a_job_in_any_state_can_be_shown(state: job_pb2.JobState.ValueType) -> None:
    merge = job_pb2.Job(kind=job_pb2.JOB_KIND_MERGE, state=state, merge=job_pb2.MergeSpec(checkpoint_path="/c"))
    assert "/c" in Tags(dictionaries.job(merge)._repr_html_()).text
    bare = job_pb2.Job(kind=job_pb2.JOB_KIND_EVALUATION, state=state, evaluation=job_pb2.EvaluationSpec(model="m"))
    assert "Job" in Tags(dictionaries.job(bare)._repr_html_()).text


def test_what_is_shown_is_a_dictionary_all_the_same() -> None:
    told = dictionaries.job(nasty_job())
    told["task_results"][0]["metrics"].pop()
    assert json.loads(json.dumps(told)) == told == pickle.loads(pickle.dumps(told)) == dict(told)

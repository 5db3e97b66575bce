"""Everything that is stored comes back as it was."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmms_eval_grpc.jobs.codec import DecodeError, decode, encode, from_plain
from lmms_eval_grpc.jobs.events import Completed, EventBody, Failed, StateChange, Stopped, WorkerReport
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import (
    EvaluationResult,
    GroupResult,
    JobError,
    JobErrorCode,
    MergeResult,
    Metric,
    Progress,
    TaskResult,
)
from lmms_eval_grpc.jobs.spec import CheckpointKind, EvaluationSpec, MergeSpec, Seeds
from lmms_eval_grpc.jobs.state import JobState
from tests.jobs.examples import queued, result, spec, submitted, task_result, then

# Texts as protobuf lets them in: anything but lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False)
integers = st.integers(-(2**53), 2**53)
string_maps = st.dictionaries(texts, texts, max_size=3)
plain_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | integers | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
argument_maps = st.dictionaries(texts, plain_values, max_size=4)


def several(item: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(item, max_size=3).map(tuple)


evaluation_specs = st.builds(
    EvaluationSpec,
    model=texts,
    tasks=several(texts),
    model_args=argument_maps,
    num_fewshot=st.none() | integers,
    batch_size=st.none() | integers,
    limit_fraction=st.none() | numbers,
    gen_kwargs=argument_maps,
    log_samples=st.booleans(),
    seeds=st.builds(Seeds, integers, integers, integers, integers),
    run_timeout=st.none() | numbers,
    include_path=several(texts),
)
merge_specs = st.builds(MergeSpec, texts, texts, st.sampled_from(CheckpointKind))
metrics = st.builds(Metric, texts, texts, numbers, st.none() | numbers, higher_is_better=st.none() | st.booleans())
task_results = st.builds(TaskResult, texts, texts, several(metrics), integers, integers, integers, numbers)
evaluation_results = st.builds(
    EvaluationResult,
    several(task_results),
    several(st.builds(GroupResult, texts, texts, several(metrics), several(texts))),
    results_json=texts,
    samples_paths=several(texts),
    stage_seconds=st.dictionaries(texts, numbers, max_size=3),
)
merge_results = st.builds(MergeResult, texts, integers)
errors = st.builds(JobError, st.sampled_from(JobErrorCode), texts, texts, string_maps, texts)
progresses = st.builds(Progress, remaining_seconds=st.none() | numbers, samples_done=integers, task=texts)
state_changes = st.builds(
    StateChange, st.none() | st.sampled_from(JobState), st.sampled_from(JobState), integers, texts, st.none() | errors
)
jobs = st.builds(
    Job,
    job_id=texts,
    spec=evaluation_specs | merge_specs,
    state=st.sampled_from(JobState),
    create_time=numbers,
    order=integers,
    labels=string_maps,
    start_time=st.none() | numbers,
    devices=several(texts),
    progress=st.none() | progresses,
    task_results=several(task_results),
    result=st.none() | evaluation_results | merge_results,
    error=st.none() | errors,
)


@settings(max_examples=60, deadline=None)
@given(jobs)
def test_a_job_comes_back_as_it_was(job: Job) -> None:
    assert decode(Job, encode(job)) == job


@settings(max_examples=60, deadline=None)
@given(state_changes | task_results | progresses)
def test_an_event_comes_back_as_it_was(body: EventBody) -> None:
    back = decode(EventBody, encode(body))
    assert back == body
    assert type(back) is type(body)


@settings(max_examples=60, deadline=None)
@given(progresses | task_results | st.builds(Completed, evaluation_results | merge_results) | st.builds(Failed, errors))
def test_a_worker_report_comes_back_as_it_was(report: WorkerReport) -> None:
    assert decode(WorkerReport, encode(report)) == report


def test_a_report_without_fields_comes_back_too() -> None:
    assert decode(WorkerReport, encode(Stopped())) == Stopped()


def test_undefined_and_infinite_metrics_survive() -> None:
    values = [math.nan, math.inf, -math.inf]
    back = [decode(TaskResult, encode(task_result(value=value))).metrics[0].value for value in values]
    assert math.isnan(back[0])
    assert back[1:] == values[1:]


def test_an_integer_in_a_float_field_becomes_a_float() -> None:
    back = decode(EvaluationSpec, encode(spec(run_timeout=60)))
    assert isinstance(back.run_timeout, float)


def test_keys_of_a_later_release_are_ignored() -> None:
    job, _ = queued(1)
    job, _ = then(job, JobState.RUNNING)
    plain = json.loads(encode(job))
    plain["a_later_field"] = {"x": 1}
    plain["spec"]["another"] = [1, 2]
    assert from_plain(Job, plain) == job


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Job, encode(queued(1)[0]).replace('"queued"', '"dreaming"')),
        (Job, encode(queued(1)[0]).replace('"evaluation_spec"', '"training_spec"')),
        (Job, '{"job_id": "job-1"}'),
        (Job, '{"job_id": "job-1", "spec"'),
        (EventBody, '{"type": "a_later_event", "x": 1}'),
        (EventBody, '{"x": 1}'),
        (EventBody, "7"),
        (tuple[TaskResult, ...], "7"),
        (tuple[TaskResult, ...], '[{"type": "task_result", "metrics": {"name": "x"}}]'),
    ],
)
def test_what_this_release_cannot_have_written_is_refused_as_such(kind: Any, text: str) -> None:
    with pytest.raises(DecodeError):
        decode(kind, text)


def test_missing_keys_take_their_defaults() -> None:
    plain = json.loads(encode(submitted(1)))
    for name in ("labels", "priority", "task_results", "result"):
        del plain[name]
    del plain["spec"]["seeds"]
    assert from_plain(Job, plain) == submitted(1)


def test_the_text_is_plain_json_with_tagged_unions() -> None:
    plain = json.loads(encode(Completed(result("digits"))))
    assert plain["type"] == "completed"
    assert plain["result"]["type"] == "evaluation_result"
    assert plain["result"]["task_results"][0]["metrics"][0]["name"] == "exact_match"


def test_a_part_of_another_kind_than_belongs_there_is_damage() -> None:
    job = json.loads(encode(submitted(1)))
    job["spec"] = json.loads(encode(task_result()))
    for text in (encode(StateChange(None, JobState.QUEUED, 0)), encode(spec())):
        with pytest.raises(DecodeError):
            decode(TaskResult | Progress, text)
    with pytest.raises(DecodeError, match="task_result"):
        decode(Job, json.dumps(job))

"""Conversions that no method reaches yet, or only with values that are hard to come by."""

from __future__ import annotations

import dataclasses
import math

import pytest

from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.entry import ModelEntry
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.events import JobEvent, StateChange
from lmms_eval_grpc.jobs.results import (
    BaselineComparison,
    JobError,
    JobErrorCode,
    JobStage,
    MergeResult,
    Metric,
    Progress,
    TaskResult,
    Verdict,
)
from lmms_eval_grpc.jobs.spec import CheckpointKind, EvaluationSpec, MergeMode, MergeSpec, RetryPolicy, Seeds
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.server.convert_catalog import write_model
from lmms_eval_grpc.server.convert_job import write_event, write_job, write_progress, write_task_result
from lmms_eval_grpc.server.convert_spec import read_evaluation_spec, write_evaluation_spec
from lmms_eval_grpc.server.convert_values import write_duration
from lmms_eval_grpc.v1 import job_pb2
from tests.jobs.examples import submitted, task_result


def test_a_specification_survives_both_directions() -> None:
    spec = EvaluationSpec(
        model="idefics3",
        tasks=("a", "b"),
        model_args={"pretrained": "x", "big": "9007199254740993", "deep": {"list": [1, 2.5, None, True]}},
        num_fewshot=0,
        batch_size=8,
        max_batch_size=16,
        device="cuda:1",
        limit_fraction=0.25,
        offset=5,
        gen_kwargs={"max_new_tokens": 64},
        log_samples=False,
        predict_only=True,
        num_gpus=2,
        output_dir="/results",
        seeds=Seeds(1, 2, 3, 4),
        repeats=3,
        system_instruction="be brief",
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        reasoning_tags="none",
        force_simple=True,
        trust_remote_code=True,
        use_cache="/cache",
        agentic_trace_mode="full",
        baseline="preset",
        max_tokens=1000,
        run_timeout=90.5,
        include_path=("/tasks",),
        max_error_share=0.0,
        retry_policy=RetryPolicy(4, (JobErrorCode.STALLED,)),
        stall_timeout=30.0,
        merge=MergeMode.AUTO,
        track=("wandb:digits",),
        process_with_media=True,
        bootstrap_iters=0,
        override_tasks=True,
        timezone="Asia/Singapore",
        compat=("fewshot_stream",),
    )
    for example in (spec, dataclasses.replace(spec, limit_fraction=None, limit_count=7), EvaluationSpec("m", ("t",))):
        assert read_evaluation_spec(write_evaluation_spec(example)) == (example, [])
    unlike_defaults = {
        field.name
        for field in dataclasses.fields(spec)
        if getattr(spec, field.name) == getattr(EvaluationSpec("", ()), field.name)
    }
    assert unlike_defaults == {"limit_count"}, "a field that this test does not exercise"


def test_every_field_of_the_message_is_read() -> None:
    assert {field.name for field in job_pb2.EvaluationSpec.DESCRIPTOR.fields} == (
        {field.name for field in dataclasses.fields(EvaluationSpec)} - {"limit_count", "limit_fraction"} | {"limit"}
    )


def test_a_merge_is_a_job_like_any_other() -> None:
    job = submitted(1, spec=MergeSpec("/ckpt", "/out", CheckpointKind.EMA), result=MergeResult("/out", 7))
    message = write_job(job, full=True, queue_position=2)
    assert message.kind == job_pb2.JOB_KIND_MERGE
    assert message.merge.checkpoint_kind == job_pb2.CHECKPOINT_KIND_EMA
    assert message.merge_result == job_pb2.MergeResult(output_path="/out", size_bytes=7)
    assert message.queue_position == 2


def test_a_comparison_with_a_baseline_is_told_and_what_is_undefined_is_unset() -> None:
    found = BaselineComparison(
        "runs/old", 20, 0.8, 0.2, 0.6, Verdict.BETTER, 0.36, 0.84, 0.95, "t", 0.001, 0.002, "mcnemar_mid_p", 0.3
    )
    (metric,) = write_task_result(
        dataclasses.replace(task_result(), metrics=(Metric("acc", "none", 80.0, baseline=found),))
    ).metrics
    assert metric.baseline == job_pb2.BaselineComparison(
        baseline="runs/old",
        documents=20,
        score=0.8,
        baseline_score=0.2,
        difference=0.6,
        confidence_interval=job_pb2.ConfidenceInterval(lower=0.36, upper=0.84, level=0.95, method="t"),
        p_value=0.001,
        adjusted_p_value=0.002,
        method="mcnemar_mid_p",
        verdict=job_pb2.BaselineComparison.VERDICT_BETTER,
        minimum_detectable_effect=0.3,
    )
    lone = BaselineComparison("runs/old", 1, 1.0, 0.0, 1.0, Verdict.NOT_ENOUGH_EVIDENCE)
    result = dataclasses.replace(task_result(), metrics=(Metric("acc", "none", 1.0, baseline=lone),))
    assert codec.decode(TaskResult, codec.encode(result)) == result
    (metric,) = write_task_result(result).metrics
    assert metric.baseline.verdict == job_pb2.BaselineComparison.VERDICT_NOT_ENOUGH_EVIDENCE
    for field in ("confidence_interval", "p_value", "adjusted_p_value", "minimum_detectable_effect"):
        assert not metric.baseline.HasField(field)  # type: ignore[arg-type]


def test_a_model_says_whose_it_is_and_whether_other_arguments_may_be_right() -> None:
    entry = ModelEntry("theirs:x", "", "nowhere:load", {}, any_arguments=True, source="lmms-eval 0.7.3")
    message = write_model(entry, ("lmms-eval",))
    assert (message.source, message.any_arguments, message.available) == ("lmms-eval 0.7.3", True, False)
    ours = registry.resolve("huggingface")
    assert ours is not None
    message = write_model(ours, ())
    assert (message.source, message.any_arguments, message.available) == ("", False, True)


def test_numbers_that_are_undefined_stay_so() -> None:
    result = dataclasses.replace(task_result(), metrics=(Metric("acc", "none", math.nan),), elapsed_seconds=math.nan)
    message = write_task_result(result)
    (metric,) = message.metrics
    assert math.isnan(metric.value)
    assert not metric.HasField("standard_error")
    assert not metric.HasField("confidence_interval")
    assert not metric.HasField("higher_is_better")
    assert message.elapsed.ToSeconds() == 0


@pytest.mark.parametrize("seconds", [math.inf, 1e300, -math.inf])
def test_a_time_without_bound_is_the_longest_there_is(seconds: float) -> None:
    assert abs(write_duration(seconds).seconds) == 315_576_000_000
    assert write_progress(Progress(JobStage.STARTING, remaining_seconds=seconds)).HasField("remaining")


def test_text_that_utf8_cannot_hold_is_replaced() -> None:
    error = JobError(JobErrorCode.EVALUATION, "BROKEN", "half a pair \ud800", {"k": "\udfff"}, "log \ud83d")
    change = StateChange(JobState.RUNNING, JobState.FAILED, 1, "why \ud800", error)
    message = write_event(JobEvent(3, 1000.5, change))
    assert job_pb2.JobEvent.FromString(message.SerializeToString()) == message
    assert message.state_change.error.message == "half a pair ?"
    assert message.event_time.ToMilliseconds() == 1_000_500


@pytest.mark.parametrize("state", JobState)
def test_every_state_has_its_own_number(state: JobState) -> None:
    message = write_event(JobEvent(1, 0.0, StateChange(None, state, 0)))
    assert job_pb2.JobState.Name(message.state_change.state) == f"JOB_STATE_{state.name}"
    assert message.state_change.previous_state == job_pb2.JOB_STATE_UNSPECIFIED

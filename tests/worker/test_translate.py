"""Between a job's specification and results and the engine's."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.api import (
    EvaluationConfig,
    EvaluationError,
    EvaluationOutcome,
    GroupScore,
    MetricScore,
    ProgressReport,
    Stage,
    TaskScore,
)
from lmms_eval_grpc.jobs.results import JobErrorCode, JobStage
from lmms_eval_grpc.jobs.spec import EvaluationSpec, MergeMode, Seeds
from lmms_eval_grpc.worker import translate

FULL = EvaluationSpec(
    model="qwen2_5_vl",
    tasks=("a", "b"),
    model_args={"pretrained": "x"},
    num_fewshot=2,
    batch_size=3,
    max_batch_size=4,
    device="cuda:7",
    num_gpus=4,
    limit_count=5,
    offset=6,
    gen_kwargs={"top_k": 1},
    log_samples=False,
    predict_only=True,
    output_dir="out",
    seeds=Seeds(1, 2, 3, 4),
    repeats=7,
    system_instruction="Be brief.",
    apply_chat_template=True,
    fewshot_as_multiturn=True,
    reasoning_tags="none",
    force_simple=True,
    trust_remote_code=True,
    use_cache="cache",
    agentic_trace_mode="full",
    baseline="base",
    max_tokens=8,
    include_path=("job",),
    max_error_share=0.5,
    stall_timeout=90.0,
    process_with_media=True,
    bootstrap_iters=9,
    override_tasks=True,
    timezone="Asia/Singapore",
    compat=("fewshot_stream",),
    merge=MergeMode.AUTO,
)


IN_PROCESS_ONLY = ("log_samples_suffix", "resolved_cli_args")
"""Settings that the contract does not have: for evaluations without a server."""


def test_every_field_of_a_specification_reaches_the_engine() -> None:
    config = translate.to_config(FULL, include_paths=(Path("server"),), device="cuda:0")
    assert config == EvaluationConfig(
        model="qwen2_5_vl",
        tasks=("a", "b"),
        model_args={"pretrained": "x"},
        include_paths=(Path("server"), Path("job")),
        num_fewshot=2,
        batch_size=3,
        max_batch_size=4,
        device="cuda:0",
        num_gpus=4,
        limit=5,
        offset=6,
        gen_kwargs={"top_k": 1},
        log_samples=False,
        predict_only=True,
        output_dir=Path("out"),
        seed=(1, 2, 3, 4),
        repeats=7,
        system_instruction="Be brief.",
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        reasoning_tags="none",
        force_simple=True,
        trust_remote_code=True,
        use_cache=Path("cache"),
        agentic_trace_mode="full",
        baseline="base",
        max_tokens=8,
        max_error_share=0.5,
        stall_timeout=90.0,
        process_with_media=True,
        bootstrap_iters=9,
        override_tasks=True,
        timezone="Asia/Singapore",
        compat=frozenset({"fewshot_stream"}),
        merge=True,
    )
    plain = translate.to_config(EvaluationSpec("m", ("t",)), include_paths=(), device="cpu")
    unchanged = [
        field.name
        for field in dataclasses.fields(EvaluationConfig)
        if getattr(plain, field.name) == getattr(config, field.name) and field.name not in IN_PROCESS_ONLY
    ]
    assert unchanged == [], "these fields were not told apart by this test"


def test_a_plain_specification_gives_the_engine_its_own_defaults() -> None:
    config = translate.to_config(EvaluationSpec("m", ("t",)), include_paths=(), device="cpu")
    assert config == EvaluationConfig("m", ("t",), device="cpu")


@pytest.mark.parametrize(("count", "fraction", "limit"), [(None, None, None), (0, None, 0), (None, 0.5, 0.5)])
def test_limits_keep_their_kind(count: int | None, fraction: float | None, limit: float | None) -> None:
    spec = EvaluationSpec("m", ("t",), limit_count=count, limit_fraction=fraction)
    config = translate.to_config(spec, include_paths=(), device="cpu")
    assert config.limit == limit
    assert type(config.limit) is type(limit)


def test_results_go_into_the_job_folder_unless_the_job_names_another() -> None:
    job_dir = Path("jobs/1")
    plain = translate.to_config(EvaluationSpec("m", ("t",)), include_paths=(), device="cpu", job_dir=job_dir)
    named = translate.to_config(FULL, include_paths=(), device="cpu", job_dir=job_dir)
    assert plain.output_dir == job_dir / "results"
    assert named.output_dir == Path("out")


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_has_its_name_in_the_service(stage: Stage) -> None:
    progress = translate.to_progress(ProgressReport(stage, "t", 1, 2, 3, 4, 5, 6, 7.0, 8, 9, 10, 99, 11, 12))
    assert progress.stage is JobStage(stage.value)
    assert dataclasses.astuple(progress)[1:9] == ("t", 1, 2, 3, 4, 5, 6, 7.0)
    assert (progress.batch_size, progress.output_tokens, progress.samples_cached) == (8, 9, 10)
    assert (progress.bytes_done, progress.bytes_total) == (11, 12)


def test_an_outcome_becomes_a_result_whose_documents_are_json() -> None:
    metric = MetricScore("acc", "none", math.nan, 0.1, 0.2, 0.3, "t", True, 4)
    outcome = EvaluationOutcome(
        tasks=(TaskScore("t", "2.0", (metric,), 8, 4, 1, 6.0, 3),),
        results_document={"results": {"t": {"acc,none": math.nan}}, "name": "ä"},
        results_path=Path("r/results.json"),
        samples_paths=(Path("r/samples_t.jsonl"),),
        manifest={"versions": {"torch": "2"}},
        stage_seconds={"generating": 2.0},
        input_tokens=10,
        output_tokens=20,
        output_tokens_per_second=10.0,
        samples_per_second=2.5,
    )
    result = translate.to_result(outcome)
    assert json.loads(result.results_json) == {"results": {"t": {"acc,none": None}}, "name": "ä"}
    assert json.loads(result.manifest_json) == {"versions": {"torch": "2"}}
    assert result.results_path == "r/results.json"
    assert result.samples_paths == ("r/samples_t.jsonl",)
    assert (result.output_tokens_per_second, result.samples_per_second) == (10.0, 2.5)
    (task,) = result.task_results
    assert (task.task, task.version) == ("t", "2.0")
    assert (task.samples_asked, task.samples_scored, task.samples_errored, task.samples_skipped) == (8, 4, 1, 3)
    assert math.isnan(task.metrics[0].value)
    assert dataclasses.astuple(task.metrics[0])[3:6] == (0.1, 0.2, 0.3)
    assert task.metrics[0].higher_is_better is True


def test_groups_with_metrics_become_results() -> None:
    metric = MetricScore("acc", "strict", 0.5, None, None, None, "", None, 30)
    outcome = EvaluationOutcome(
        tasks=(),
        results_document={},
        results_path=None,
        samples_paths=(),
        manifest={},
        groups=(
            GroupScore("all", "All", "1.0", ("digits", "c"), (metric,), 30),
            GroupScore("digits", "digits", "1.0", ("a", "b"), (), 20),
        ),
    )
    (group,) = translate.to_result(outcome).group_results
    assert (group.group, group.version, group.members) == ("all", "1.0", ("digits", "c"))
    assert (group.metrics[0].filter, group.metrics[0].standard_error, group.metrics[0].sample_count) == (
        "strict",
        None,
        30,
    )


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("TASK_LOAD_FAILED", JobErrorCode.INVALID),
        ("MODEL_LOAD_FAILED", JobErrorCode.INVALID),
        ("DATASET_UNAVAILABLE", JobErrorCode.INVALID),
        ("TOO_MANY_ERRORS", JobErrorCode.EVALUATION),
    ],
)
def test_errors_that_lie_in_the_job_are_told_from_those_of_the_evaluation(reason: str, code: JobErrorCode) -> None:
    error = translate.to_error(EvaluationError(reason, "why"))
    assert (error.code, error.reason, error.message) == (code, reason, "why")


@pytest.mark.parametrize(
    ("failure", "code", "reason", "remedy"),
    [
        (MemoryError("bytearray"), JobErrorCode.OUT_OF_MEMORY, "OUT_OF_MEMORY", "smaller batch_size"),
        (OSError(errno.ENOSPC, "No space left on device"), JobErrorCode.INTERNAL, "DISK_FULL", "free space"),
        (OSError(errno.EDQUOT, "Quota exceeded"), JobErrorCode.INTERNAL, "DISK_FULL", "free space"),
        (OSError(errno.ENOENT, "No such file"), JobErrorCode.EVALUATION, "UNEXPECTED_ERROR", "FileNotFoundError"),
    ],
)
def test_want_of_memory_or_disk_is_told_from_faults_of_the_evaluation_whatever_it_made_fail(
    failure: Exception, code: JobErrorCode, reason: str, remedy: str
) -> None:
    error = translate.to_unexpected_error(failure)
    assert (error.code, error.reason) == (code, reason)
    assert remedy in error.message
    wrapped = EvaluationError("TASK_LOAD_FAILED", "the task failed")
    wrapped.__cause__ = failure
    assert translate.to_error(wrapped).code is (code if reason != "UNEXPECTED_ERROR" else JobErrorCode.INVALID)


def test_a_model_that_does_not_fit_is_want_of_memory() -> None:
    error = translate.to_error(EvaluationError("OUT_OF_MEMORY", "the model does not fit"))
    assert (error.code, error.reason) == (JobErrorCode.OUT_OF_MEMORY, "OUT_OF_MEMORY")
    assert error.message.startswith("the model does not fit; use a smaller batch_size")


def test_an_unexpected_error_says_its_type_and_is_not_endless() -> None:
    error = translate.to_unexpected_error(KeyError("x" * 100_000))
    assert error.message.startswith("KeyError: 'xxx")
    assert len(error.message) < 5000
    assert error.details == {"exception": "KeyError"}

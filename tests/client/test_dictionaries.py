"""Messages become the dictionaries that lmms-eval's client returns."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from lmms_eval_grpc.client import dictionaries, requests
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import job_pb2

LMMS_EVAL_JOB_KEYS = {
    "job_id",
    "status",
    "created_at",
    "started_at",
    "completed_at",
    "request",
    "result",
    "error",
    "position_in_queue",
}
LMMS_EVAL_REQUEST_KEYS = {
    "model",
    "tasks",
    "model_args",
    "num_fewshot",
    "batch_size",
    "device",
    "limit",
    "gen_kwargs",
    "log_samples",
    "predict_only",
    "num_gpus",
    "output_dir",
}


def metric(name: str, value: float, **fields: Any) -> job_pb2.Metric:
    return job_pb2.Metric(name=name, filter="none", value=value, **fields)


def completed(**result: Any) -> job_pb2.Job:
    interval = job_pb2.ConfidenceInterval(lower=0.4, upper=0.6, level=0.95, method="t")
    tasks = [
        job_pb2.TaskResult(
            task="digits",
            version="1.0",
            metrics=[metric("acc", 0.5, standard_error=0.05, confidence_interval=interval, higher_is_better=True)],
            samples=job_pb2.SampleCounts(asked=10, scored=9, errored=1),
        )
    ]
    return job_pb2.Job(
        job_id="j",
        state=job_pb2.JOB_STATE_COMPLETED,
        evaluation=job_pb2.EvaluationSpec(model="m", tasks=["digits"]),
        create_time=Timestamp(seconds=1_700_000_000, nanos=500_000_000),
        evaluation_result=job_pb2.EvaluationResult(task_results=tasks, **result),
    )


def test_a_new_job_has_all_of_lmms_evals_keys() -> None:
    spec = job_pb2.EvaluationSpec(model="m", tasks=["t"])
    told = dictionaries.job(job_pb2.Job(job_id="j", state=job_pb2.JOB_STATE_QUEUED, evaluation=spec, queue_position=0))
    assert told.keys() >= LMMS_EVAL_JOB_KEYS
    assert told["request"].keys() == LMMS_EVAL_REQUEST_KEYS
    assert (told["status"], told["position_in_queue"]) == ("queued", 0)
    assert all(told[key] is None for key in ("started_at", "completed_at", "result", "error"))
    assert json.loads(json.dumps(told)) == told


def test_times_are_iso_in_utc() -> None:
    assert dictionaries.job(completed())["created_at"] == "2023-11-14T22:13:20.500000+00:00"


def test_the_request_reads_as_it_was_written() -> None:
    spec = job_pb2.EvaluationSpec(model="m", tasks=["t"], num_fewshot=0, log_samples=False, repeats=3, num_gpus=2)
    spec.model_args.update({"pretrained": "/x", "n": 3, "x": 0.5, "nested": {"l": [1, 2.5]}})
    spec.gen_kwargs.update({"max_new_tokens": 64})
    spec.batch_size.automatic.SetInParent()
    spec.limit.fraction = 0.5
    spec.seeds.torch = 7
    spec.run_timeout.seconds = 90
    spec.stall_timeout.seconds = 30
    spec.retry_policy.max_attempts = 2
    spec.retry_policy.retry_on.append(job_pb2.JOB_ERROR_CODE_STALLED)
    spec.include_path.append("/tasks")
    told = dictionaries.job(job_pb2.Job(evaluation=spec))["request"]
    assert told == {
        "model": "m",
        "tasks": ["t"],
        "model_args": {"pretrained": "/x", "n": 3, "x": 0.5, "nested": {"l": [1, 2.5]}},
        "num_fewshot": 0,
        "batch_size": "auto",
        "device": None,
        "limit": 0.5,
        "gen_kwargs": {"max_new_tokens": 64},
        "log_samples": False,
        "predict_only": False,
        "num_gpus": 2,
        "output_dir": None,
        "repeats": 3,
        "seed": [None, None, 7, None],
        "run_timeout": 90.0,
        "stall_timeout": 30.0,
        "retry_policy": {"max_attempts": 2, "retry_on": ["stalled"]},
        "include_path": ["/tasks"],
    }
    assert isinstance(told["model_args"]["n"], int)


def test_the_request_of_a_job_can_be_submitted_again() -> None:
    spec = job_pb2.EvaluationSpec()
    for field in spec.DESCRIPTOR.fields:
        match field.name:
            case "tasks" | "include_path" | "track" | "compat":
                getattr(spec, field.name).extend(["a", "b"])
            case "model_args" | "gen_kwargs":
                getattr(spec, field.name).update({"n": 3, "nested": {"l": [1, 2.5]}})
            case "batch_size":
                spec.batch_size.fixed = 4
            case "limit":
                spec.limit.count = 8
            case "seeds":
                spec.seeds.python, spec.seeds.numpy, spec.seeds.fewshot = 1, 2, 4
            case "run_timeout" | "stall_timeout":
                getattr(spec, field.name).seconds = 90
            case "retry_policy":
                spec.retry_policy.max_attempts = 2
                spec.retry_policy.retry_on.append(job_pb2.JOB_ERROR_CODE_STALLED)
            case "merge":
                spec.merge = job_pb2.MERGE_MODE_AUTO
            case "max_error_share":
                spec.max_error_share = 0.5
            case name:  # text, numbers and switches
                setattr(spec, name, "x" if field.type == field.TYPE_STRING else 1)
    assert {field.name for field, _ in spec.ListFields()} == {field.name for field in spec.DESCRIPTOR.fields}
    told = dictionaries.job(job_pb2.Job(evaluation=spec))["request"]
    basic = {name: told.pop(name) for name in LMMS_EVAL_REQUEST_KEYS}
    assert requests.evaluate(**basic, options=told).spec == spec


def test_the_result_is_the_document_with_our_additions_beside() -> None:
    document = {"results": {"digits": {"acc,none": 0.5}}, "versions": {"digits": "1.0"}, "n-shot": {"digits": 0}}
    told = dictionaries.job(completed(results_json=json.dumps(document), manifest_json='{"torch": "2"}'))["result"]
    added = told.pop("service")
    assert told == document
    assert added["manifest"] == {"torch": "2"}
    [task] = added["task_results"]
    assert task["samples"] == {"asked": 10, "scored": 9, "errored": 1, "skipped": 0}
    [told_metric] = task["metrics"]
    assert told_metric["confidence_interval"] == {"lower": 0.4, "upper": 0.6, "level": 0.95, "method": "t"}
    assert told_metric["higher_is_better"] is True
    assert told_metric["baseline"] is None
    found = job_pb2.BaselineComparison(
        baseline="old", documents=9, score=0.5, baseline_score=0.25, difference=0.25, p_value=0.03, method="permutation"
    )
    found.verdict = job_pb2.BaselineComparison.VERDICT_BETTER
    (told_metric,) = dictionaries.task_result(
        job_pb2.TaskResult(task="t", metrics=[metric("acc", 0.5, baseline=found)])
    )["metrics"]
    assert told_metric["baseline"] == {
        "baseline": "old",
        "documents": 9,
        "score": 0.5,
        "baseline_score": 0.25,
        "difference": 0.25,
        "confidence_interval": None,
        "p_value": 0.03,
        "adjusted_p_value": None,
        "method": "permutation",
        "verdict": "better",
        "minimum_detectable_effect": None,
    }


def test_a_document_that_was_too_large_is_made_from_the_metrics() -> None:
    job = completed(results_json_omitted=True, results_path="/results.json")
    job.evaluation_result.group_results.add(group="all", metrics=[metric("acc", 0.5)], members=["digits"])
    told = dictionaries.job(job)["result"]
    assert told["results"] == {
        "digits": {"alias": "digits", "acc,none": 0.5, "acc_stderr,none": 0.05},
        "all": {"alias": "all", "acc,none": 0.5, "acc_stderr,none": "N/A"},
    }
    assert told["groups"] == {"all": told["results"]["all"]}
    assert told["versions"] == {"digits": "1.0"}
    assert told["service"]["results_path"] == "/results.json"


def test_an_undefined_value_stays_nan() -> None:
    told = dictionaries.task_result(job_pb2.TaskResult(task="t", metrics=[metric("acc", math.nan)]))
    assert math.isnan(told["metrics"][0]["value"])
    assert told["metrics"][0]["standard_error"] is None


def test_an_error_is_one_text_with_the_end_of_the_log() -> None:
    error = job_pb2.JobError(code=job_pb2.JOB_ERROR_CODE_WORKER_DIED, reason="WORKER_KILLED", message="killed")
    job = job_pb2.Job(state=job_pb2.JOB_STATE_FAILED, error=error)
    assert dictionaries.job(job)["error"] == "killed"
    job.error.log_tail = "line"
    told = dictionaries.job(job)
    assert told["error"] == "killed\nEnd of the worker's log:\nline"
    assert told["error_info"]["code"] == "worker_died"


def test_a_merge_reads_as_it_was_written() -> None:
    merge = job_pb2.MergeSpec(checkpoint_path="/c", config_path="/base")
    job = job_pb2.Job(kind=job_pb2.JOB_KIND_MERGE, state=job_pb2.JOB_STATE_COMPLETED, merge=merge)
    job.merge_result.output_path = "/out"
    job.merge_result.tensor_count = 3
    told = dictionaries.job(job)
    assert told["request"] == {
        "checkpoint_path": "/c",
        "output_path": None,
        "checkpoint_type": "regular",
        "config_path": "/base",
        "max_shard_bytes": None,
    }
    assert told["result"] == {"merged_path": "/out", "size_bytes": 0, "tensor_count": 3, "file_count": 0}
    assert dictionaries.merge(told)["success"] is True


def test_words_of_a_newer_server_are_unknown_and_not_ended() -> None:
    newer = job_pb2.Job.FromString(job_pb2.Job(job_id="j").SerializeToString() + b"\x18\x63")
    assert newer.state == 99
    assert dictionaries.job(newer)["status"] == "unknown"
    assert not dictionaries.has_ended(newer.state)
    record = job_pb2.SampleRecord.FromString(b"\x20\x63")
    assert dictionaries.sample(record)["outcome"] == "unknown"


@pytest.mark.parametrize(("state", "word"), [(3, "cancelling"), (4, "completed"), (5, "failed"), (6, "cancelled")])
def test_states_have_lmms_evals_words(state: int, word: str) -> None:
    assert dictionaries.state_name(state) == word


def test_a_samples_scores_may_be_more_than_numbers() -> None:
    record = job_pb2.SampleRecord(task="t", scores={"a": 1}, scores_json='{"a": 1, "b": {"c": [2]}}', error="e")
    told = dictionaries.sample(record)
    assert told["scores"] == {"a": 1, "b": {"c": [2]}}
    assert told["error"] == "e"


def test_several_running_jobs_are_told_beside_lmms_evals_one() -> None:
    told = dictionaries.queue(service.QueueSnapshot(running_job_ids=["a", "b"], cancelled_count=2))
    assert (told["running_job"], told["running_jobs"], told["cancelled_jobs"]) == ("a", ["a", "b"], 2)

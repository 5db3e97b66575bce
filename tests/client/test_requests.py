"""Every argument of `evaluate` reaches the request as lmms-eval means it, or is refused by name."""

from __future__ import annotations

import json
import uuid
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pytest
from google.protobuf.json_format import MessageToDict

from lmms_eval_grpc.client import EvaluationOptions, InvalidRequest
from lmms_eval_grpc.client import requests as build
from lmms_eval_grpc.client.requests import list_jobs, merge_checkpoint
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import job_pb2

LMMS_EVAL_DEFAULTS: dict[str, Any] = {
    "model_args": None,
    "num_fewshot": None,
    "batch_size": None,
    "device": None,
    "limit": None,
    "gen_kwargs": None,
    "log_samples": True,
    "predict_only": False,
    "num_gpus": 1,
    "output_dir": None,
}


def request(**arguments: Any) -> service.EvaluateRequest:
    basic = {"model": "dummy", "tasks": ["digits"], **LMMS_EVAL_DEFAULTS}
    options = {name: value for name, value in arguments.items() if name not in basic}
    given = basic | {name: value for name, value in arguments.items() if name in basic}
    return build.evaluate(**given, options=cast(EvaluationOptions, options))


def spec(**arguments: Any) -> dict[str, Any]:
    return MessageToDict(request(**arguments).spec, preserving_proto_field_name=True)


def test_defaults_send_nothing_beyond_what_is_required() -> None:
    assert spec() == {"model": "dummy", "tasks": ["digits"], "log_samples": True, "num_gpus": 1}


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ({"tasks": "a, b"}, {"tasks": ["a", "b"]}),
        ({"model_args": {"pretrained": "/x", "n": 3}}, {"model_args": {"pretrained": "/x", "n": 3.0}}),
        ({"model_args": "pretrained=/x,n=3"}, {"model_args": {"pretrained": "/x", "n": 3.0}}),
        ({"num_fewshot": 0}, {"num_fewshot": 0}),
        ({"batch_size": 8}, {"batch_size": {"fixed": 8}}),
        ({"batch_size": "8"}, {"batch_size": {"fixed": 8}}),
        ({"batch_size": "auto"}, {"batch_size": {"automatic": {}}}),
        ({"max_batch_size": 64}, {"max_batch_size": 64}),
        ({"device": "cuda:1"}, {"device": "cuda:1"}),
        ({"limit": 5}, {"limit": {"count": "5"}}),
        ({"limit": 0.25}, {"limit": {"fraction": 0.25}}),
        ({"limit": 1.0}, {"limit": {"count": "1"}}),
        ({"limit": 2.7}, {"limit": {"count": "2"}}),
        ({"limit": 1}, {"limit": {"count": "1"}}),
        # Wrong, and the server says so, with all else that is wrong.
        ({"limit": 0}, {"limit": {"count": "0"}}),
        ({"limit": -2}, {"limit": {"count": "-2"}}),
        ({"batch_size": 0}, {"batch_size": {"fixed": 0}}),
        ({"offset": 3}, {"offset": "3"}),
        ({"gen_kwargs": {"temperature": 0}}, {"gen_kwargs": {"temperature": 0.0}}),
        ({"gen_kwargs": "temperature=0,do_sample=false"}, {"gen_kwargs": {"temperature": 0.0, "do_sample": False}}),
        ({"log_samples": False}, {"log_samples": False}),
        ({"predict_only": True}, {"predict_only": True}),
        ({"num_gpus": 4}, {"num_gpus": 4}),
        ({"output_dir": PurePosixPath("/out")}, {"output_dir": "/out"}),
        ({"seed": 7}, {"seeds": {"python": "7", "numpy": "7", "torch": "7", "fewshot": "7"}}),
        ({"seed": "1,2,3"}, {"seeds": {"python": "1", "numpy": "2", "torch": "3"}}),
        ({"seed": "0,None,3,4"}, {"seeds": {"python": "0", "torch": "3", "fewshot": "4"}}),
        ({"seed": [1, None, 3, 4]}, {"seeds": {"python": "1", "torch": "3", "fewshot": "4"}}),
        ({"repeats": 3}, {"repeats": 3}),
        ({"system_instruction": "Be brief."}, {"system_instruction": "Be brief."}),
        ({"apply_chat_template": True}, {"apply_chat_template": True}),
        ({"fewshot_as_multiturn": True}, {"fewshot_as_multiturn": True}),
        ({"reasoning_tags": "none"}, {"reasoning_tags": "none"}),
        ({"reasoning_tags": [("<a>", "</a>")]}, {"reasoning_tags": '[["<a>", "</a>"]]'}),
        ({"force_simple": True}, {"force_simple": True}),
        ({"trust_remote_code": True}, {"trust_remote_code": True}),
        ({"use_cache": "/cache"}, {"use_cache": "/cache"}),
        ({"agentic_trace_mode": "full"}, {"agentic_trace_mode": "full"}),
        ({"baseline": "b"}, {"baseline": "b"}),
        ({"max_tokens": 1000}, {"max_tokens": "1000"}),
        ({"max_error_share": 0}, {"max_error_share": 0.0}),
        ({"run_timeout": 1.5}, {"run_timeout": "1.500s"}),
        ({"stall_timeout": 60}, {"stall_timeout": "60s"}),
        ({"retry_policy": 4}, {"retry_policy": {"max_attempts": 4}}),
        (
            {"retry_policy": {"retry_on": ["stalled", "timeout"]}},
            {"retry_policy": {"retry_on": ["JOB_ERROR_CODE_STALLED", "JOB_ERROR_CODE_TIMEOUT"]}},
        ),
        ({"merge": "auto"}, {"merge": "MERGE_MODE_AUTO"}),
        ({"track": "wandb:p"}, {"track": ["wandb:p"]}),
        ({"track": ["wandb:p", "tensorboard:/runs"]}, {"track": ["wandb:p", "tensorboard:/runs"]}),
        ({"process_with_media": True}, {"process_with_media": True}),
        ({"bootstrap_iters": 0}, {"bootstrap_iters": 0}),
        ({"override_tasks": True}, {"override_tasks": True}),
        ({"timezone": "Asia/Singapore"}, {"timezone": "Asia/Singapore"}),
        ({"compat": "fewshot_stream"}, {"compat": ["fewshot_stream"]}),
        ({"include_path": "/tasks"}, {"include_path": ["/tasks"]}),
        ({"include_path": ["/a", PurePosixPath("/b")]}, {"include_path": ["/a", "/b"]}),
    ],
)
def test_an_argument_reaches_the_spec(arguments: dict[str, Any], sent: dict[str, Any]) -> None:
    assert spec(**arguments) == spec() | sent


def test_every_field_of_the_spec_has_an_argument() -> None:
    arguments = {*LMMS_EVAL_DEFAULTS, "model", "tasks", *EvaluationOptions.__annotations__}
    arguments = arguments - {"labels", "priority", "request_id", "validate_only", "seed"} | {"seeds"}
    assert arguments == {field.name for field in job_pb2.EvaluationSpec.DESCRIPTOR.fields}


def test_the_jobs_own_settings_reach_the_request() -> None:
    key = str(uuid.uuid4())
    sent = request(labels={"step": 100}, priority=-5, request_id=key, validate_only=True)
    assert (dict(sent.labels), sent.priority, sent.request_id, sent.validate_only) == ({"step": "100"}, -5, key, True)


def test_a_request_id_is_always_set_and_never_the_same() -> None:
    keys = {request().request_id for _ in range(3)} | {merge_checkpoint("/a", None, "regular").request_id}
    assert len(keys) == 4
    assert all(uuid.UUID(key) for key in keys)


@pytest.mark.parametrize("limit", [-1, -1.0, None])
def test_all_documents_are_asked_for_by_leaving_the_limit_out(limit: Any) -> None:
    assert not request(limit=limit).spec.HasField("limit")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"limit": True}, "spec.limit"),
        ({"limit": "5"}, "spec.limit"),
        ({"limit": float("nan")}, "spec.limit"),
        ({"batch_size": "many"}, "spec.batch_size"),
        ({"batch_size": True}, "spec.batch_size"),
        ({"batch_size": 1.5}, "spec.batch_size"),
        ({"gen_kwargs": "temperature"}, "spec.gen_kwargs"),
        ({"model_args": {"dtype": object()}}, "spec.model_args"),
        ({"model_args": ["a"]}, "spec.model_args"),
        ({"seed": "1,2,3,4,5"}, "spec.seed"),
        ({"seed": "one"}, "spec.seed"),
        ({"num_gpus": "two"}, "spec.num_gpus"),
        ({"run_timeout": 0}, "spec.run_timeout"),
        ({"model": 3}, "spec.model"),
        ({"tasks": [3]}, "spec.tasks"),
        ({"priority": "high"}, "priority"),
    ],
)
def test_a_wrong_argument_is_refused_by_name_and_value(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**arguments)
    [violation] = caught.value.violations
    assert violation.field == field
    assert repr(next(iter(arguments.values()))) in violation.description


def test_all_wrong_arguments_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest, match=r"(?s)spec\.batch_size.*spec\.limit") as caught:
        request(limit=True, batch_size="many")
    assert len(caught.value.violations) == 2
    assert isinstance(caught.value, ValueError)


def test_an_unknown_argument_is_a_type_error_that_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"batchsize.*max_batch_size"):
        request(batchsize=3)


def test_states_are_named_in_lmms_evals_words() -> None:
    sent = list_jobs(["queued", job_pb2.JOB_STATE_FAILED], {"a": "b"}, "alice", 10, full=True)
    assert list(sent.states) == [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_FAILED]
    assert (sent.view, sent.owner) == (job_pb2.JOB_VIEW_FULL, "alice")
    assert list(list_jobs("completed", None, "", 10, full=False).states) == [job_pb2.JOB_STATE_COMPLETED]
    with pytest.raises(InvalidRequest, match="'done' is not a state; use one of queued, running"):
        list_jobs(["done"], None, "", 10, full=False)


def test_merge_checkpoint_names_the_weights() -> None:
    sent = merge_checkpoint(PurePosixPath("/ckpt"), "/out", "ema").spec
    assert json.loads(json.dumps(MessageToDict(sent))) == {
        "checkpointPath": "/ckpt",
        "outputPath": "/out",
        "checkpointKind": "CHECKPOINT_KIND_EMA",
    }
    more = merge_checkpoint(
        "/ckpt", None, "regular", config_path="/base", max_shard_bytes=7, labels={"step": 3}, priority=2
    )
    assert (more.spec.config_path, more.spec.max_shard_bytes, more.spec.output_path) == ("/base", 7, "")
    assert (dict(more.labels), more.priority) == ({"step": "3"}, 2)
    with pytest.raises(InvalidRequest, match="'regular' or 'ema'"):
        merge_checkpoint("/ckpt", None, cast(Any, "both"))


def test_folders_of_a_merge_on_this_machine_are_sent_as_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    here = merge_checkpoint("run", "merged", "regular").spec
    assert (here.checkpoint_path, here.output_path) == (str(tmp_path / "run"), str(tmp_path / "merged"))
    elsewhere = merge_checkpoint("/elsewhere/run", "merged", "regular").spec
    assert (elsewhere.checkpoint_path, elsewhere.output_path) == ("/elsewhere/run", "merged")


def test_a_checkpoint_folder_of_this_machine_is_sent_as_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "checkpoint-300").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    sent = request(model_args={"pretrained": "run/checkpoint-300"}).spec.model_args["pretrained"]
    assert sent == str(tmp_path / "run" / "checkpoint-300")
    assert (
        request(model_args={"pretrained": "Qwen/Qwen2.5-VL-3B"}).spec.model_args["pretrained"] == "Qwen/Qwen2.5-VL-3B"
    )

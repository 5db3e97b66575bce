"""What Evaluate refuses: all of it at once, before anything is queued."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from lmms_eval_grpc.server.caps import LABELS
from lmms_eval_grpc.server.validate import MAX_SPEC_BYTES
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import job_pb2
from tests.server.conftest import TASK, NewRig, Rig, failure, violations


async def refused(rig: Rig, spec: job_pb2.EvaluationSpec | None = None, **fields: Any) -> dict[str, str]:
    """What is wrong with a request, by field; nothing may be queued by it."""
    request = pb.EvaluateRequest(spec=spec or rig.spec(), **fields)
    found = violations(await failure(rig.stub.Evaluate(request)))
    assert not (await rig.stub.ListJobs(pb.ListJobsRequest())).jobs
    request.validate_only = True
    assert violations(await failure(rig.stub.Evaluate(request))) == found
    return found


async def test_everything_that_is_wrong_is_told_at_once(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    spec = job_pb2.EvaluationSpec(
        model="qwen2_5_vlx",
        tasks=[TASK, "handwritten_digit"],
        batch_size=job_pb2.BatchSize(),
        limit=job_pb2.SampleLimit(count=0),
        offset=-1,
        num_gpus=3,
        device="cuda:9",
        output_dir=str(file),
        seeds=job_pb2.Seeds(torch=-1),
        trust_remote_code=True,
        agentic_trace_mode="loud",
        reasoning_tags="[",
        include_path=[str(tmp_path / "none")],
    )
    spec.gen_kwargs.update({"temperature": -1, "max_new_tokens": 1.5, "until": 7, "do_sample": "yes"})
    spec.run_timeout.FromSeconds(-1)
    found = await refused(
        rig,
        spec,
        request_id="not-a-uuid",
        priority=1001,
        labels={"k" * (LABELS.key_characters + 1): "v" * LABELS.characters},
    )
    assert set(found) == {
        "request_id",
        "priority",
        "labels",
        "spec.model",
        "spec.tasks[1]",
        "spec.batch_size",
        "spec.limit.count",
        "spec.offset",
        "spec.device",
        "spec.output_dir",
        "spec.seeds.torch",
        "spec.trust_remote_code",
        "spec.agentic_trace_mode",
        "spec.reasoning_tags",
        "spec.include_path[0]",
        "spec.gen_kwargs.temperature",
        "spec.gen_kwargs.max_new_tokens",
        "spec.gen_kwargs.until",
        "spec.gen_kwargs.do_sample",
        "spec.run_timeout",
    }
    assert "qwen2_5_vl" in found["spec.model"]
    assert TASK in found["spec.tasks[1]"]
    assert "cpu" in found["spec.device"]


async def test_an_empty_request_names_what_it_lacks(rig: Rig) -> None:
    error = await failure(rig.stub.Evaluate(pb.EvaluateRequest()))
    assert set(violations(error)) == {"spec"}
    assert set(await refused(rig, job_pb2.EvaluationSpec(device="cpu"))) == {"spec.model", "spec.tasks"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"limit": job_pb2.SampleLimit()}, "spec.limit"),
        ({"limit": job_pb2.SampleLimit(fraction=1.0)}, "spec.limit.fraction"),
        ({"limit": job_pb2.SampleLimit(fraction=float("nan"))}, "spec.limit.fraction"),
        ({"batch_size": job_pb2.BatchSize(fixed=0)}, "spec.batch_size.fixed"),
        ({"batch_size": job_pb2.BatchSize(fixed=70_000)}, "spec.batch_size.fixed"),
        ({"num_gpus": -1}, "spec.num_gpus"),
        ({"num_gpus": 2}, "spec.num_gpus"),
        ({"repeats": -2}, "spec.repeats"),
        ({"max_tokens": -2}, "spec.max_tokens"),
        ({"max_error_share": 1.5}, "spec.max_error_share"),
        ({"use_cache": "cache"}, "spec.use_cache"),
        ({"use_cache": __file__}, "spec.use_cache"),
        ({"system_instruction": "x" * 70_000}, "spec.system_instruction"),
        ({"model": "m" * 2000}, "spec.model"),
        ({"tasks": [TASK] * 1001}, "spec.tasks"),
        ({"include_path": [""]}, "spec.include_path[0]"),
        ({"output_dir": "relative/results"}, "spec.output_dir"),
        ({"bootstrap_iters": -1}, "spec.bootstrap_iters"),
        ({"bootstrap_iters": 2_000_000}, "spec.bootstrap_iters"),
        ({"timezone": "Mars/Olympus"}, "spec.timezone"),
        ({"timezone": "x" * 2000}, "spec.timezone"),
        ({"compat": ["everything"]}, "spec.compat"),
        ({"compat": [""]}, "spec.compat[0]"),
        ({"baseline": "/no/such/samples.jsonl"}, "spec.baseline"),
        ({"baseline": "."}, "spec.baseline"),
        ({"baseline": "x" * 5000}, "spec.baseline"),
        ({"stall_timeout": Duration(seconds=-1)}, "spec.stall_timeout"),
        ({"retry_policy": job_pb2.RetryPolicy(max_attempts=11)}, "spec.retry_policy.max_attempts"),
        ({"retry_policy": job_pb2.RetryPolicy(max_attempts=-1)}, "spec.retry_policy.max_attempts"),
        ({"retry_policy": job_pb2.RetryPolicy(retry_on=[99])}, "spec.retry_policy.retry_on"),
        (
            {"retry_policy": job_pb2.RetryPolicy(retry_on=[job_pb2.JOB_ERROR_CODE_INVALID])},
            "spec.retry_policy.retry_on",
        ),
    ],
)
async def test_a_value_out_of_range_is_refused(rig: Rig, fields: dict[str, Any], field: str) -> None:
    assert set(await refused(rig, rig.spec(**fields))) == {field}


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
async def test_a_number_that_json_does_not_have_is_refused(rig: Rig, number: float) -> None:
    spec = rig.spec()
    spec.gen_kwargs["top_p"] = number
    assert set(await refused(rig, spec)) == {"spec.gen_kwargs.top_p"}


async def test_a_task_that_overrides_another_is_the_one_that_is_checked(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"task: {TASK}\noutput_type: generate_visual_cot\n")
    fields = {"include_path": [str(tmp_path)], "tasks": [TASK]}
    await rig.submit(spec=rig.spec(**fields))
    request = pb.EvaluateRequest(spec=rig.spec(**fields, override_tasks=True))
    found = violations(await failure(rig.stub.Evaluate(request)))
    assert "generate_visual_cot" in found["spec.tasks[0]"]


async def test_a_generation_argument_that_the_model_does_not_take_is_refused(rig: Rig) -> None:
    spec = rig.spec()
    spec.gen_kwargs.update({"max_new_token": 5, "top_p": 0.5})
    found = await refused(rig, spec)
    assert set(found) == {"spec.gen_kwargs.max_new_token"}
    assert "did you mean 'max_new_tokens'" in found["spec.gen_kwargs.max_new_token"]


async def test_a_structure_may_be_32_deep_and_no_deeper(rig: Rig) -> None:
    def spec_with(levels: int, wrap: Callable[[Any], Any]) -> job_pb2.EvaluationSpec:
        value: Any = 1
        for _ in range(levels - 1):  # The structure itself is the first.
            value = wrap(value)
        spec = rig.spec()
        spec.gen_kwargs.update({"sequence_bias": value})
        return spec

    for wrap in (lambda value: [value], lambda value: {"a": value}):
        job = await rig.submit(spec=spec_with(32, wrap))
        assert (await rig.get(job.job_id)).evaluation.gen_kwargs == spec_with(32, wrap).gen_kwargs
    too_deep = pb.EvaluateRequest(spec=spec_with(33, lambda value: [value]))
    (field,) = violations(await failure(rig.stub.Evaluate(too_deep)))
    assert field == "spec.gen_kwargs"


async def test_a_structure_that_is_too_large_is_refused(rig: Rig) -> None:
    spec = rig.spec()
    spec.gen_kwargs["text"] = "x" * 300_000
    assert set(await refused(rig, spec)) == {"spec.gen_kwargs"}


async def test_a_specification_is_bounded_as_a_whole(rig: Rig) -> None:
    def spec_with(size: int) -> job_pb2.EvaluationSpec:
        spec = rig.spec(system_instruction="x" * 60_000)
        spec.gen_kwargs["stop_strings"] = ["x" * (size // 4)] * 4
        return spec

    found = await refused(rig, spec_with(220_000))
    assert set(found) == {"spec"}
    assert f"at most {MAX_SPEC_BYTES}" in found["spec"]
    job = await rig.submit(spec=spec_with(190_000))
    assert (await rig.get(job.job_id, view=job_pb2.JOB_VIEW_BASIC)).ByteSize() < 2 * MAX_SPEC_BYTES


async def test_labels_are_bounded_in_number_and_length(rig: Rig) -> None:
    assert set(await refused(rig, labels={str(i): "" for i in range(33)})) == {"labels"}
    assert set(await refused(rig, labels={"": "x"})) == {"labels"}
    assert set(await refused(rig, labels={"key": "v" * (LABELS.characters + 1)})) == {"labels.key"}
    await rig.submit(labels={str(i): "v" * LABELS.characters for i in range(32)})


async def test_a_device_is_one_of_the_servers_or_a_kind_of_them(new_rig: NewRig) -> None:
    rig = await new_rig("cuda:0", "cuda:1")
    found = await refused(rig, rig.spec(device="cpu"))
    assert "cuda:0, cuda:1" in found["spec.device"]
    assert set(await refused(rig, rig.spec(device="cuda:1", num_gpus=2))) == {"spec.num_gpus"}
    for device in ("", "cuda", "cuda:1"):
        await rig.submit(spec=rig.spec(device=device))


async def test_code_from_checkpoints_needs_the_servers_permission(new_rig: NewRig, tmp_path: Path) -> None:
    rig = await new_rig()
    spec = rig.spec(trust_remote_code=True)
    spec.model_args["trust_remote_code"] = True
    assert set(await refused(rig, spec)) == {"spec.trust_remote_code", "spec.model_args.trust_remote_code"}
    permitted = await new_rig(trust_remote_code=True, state_dir=tmp_path / "other")
    await permitted.submit(spec=spec)


async def test_an_output_folder_must_be_writable_or_can_be_made(rig: Rig, tmp_path: Path) -> None:
    await rig.submit(spec=rig.spec(output_dir=str(tmp_path / "new" / "folder")))
    assert not (tmp_path / "new").exists()


async def test_trackers_that_cannot_be_told_are_named_one_by_one(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    track = [f"tensorboard:{tmp_path / 'new'}", "neptune:x", "wandb:", f"tensorboard:{tmp_path / 'file'}"]
    assert set(await refused(rig, rig.spec(track=track))) == {"spec.track[1]", "spec.track[2]", "spec.track[3]"}
    await rig.submit(spec=rig.spec(track=track[:1]))


async def test_the_home_of_a_user_who_does_not_exist_is_no_path(rig: Rig) -> None:
    home = "~no-such-user"
    spec = rig.spec(tasks=[f"{home}/task.yaml"], output_dir=f"{home}/out", track=[f"tensorboard:{home}/runs"])
    spec.model_args["pretrained"] = f"{home}/checkpoint"
    wrong = {"spec.tasks[0]", "spec.output_dir", "spec.track[0]", "spec.model_args.pretrained"}
    assert set(await refused(rig, spec)) == wrong
    assert "spec.include_path[0]" in await refused(rig, rig.spec(include_path=[f"{home}/tasks"]))


async def test_an_argument_that_the_model_does_not_have_is_named(rig: Rig) -> None:
    spec = rig.spec()
    spec.model_args["pretraind"] = "x"
    assert set(await refused(rig, spec)) == {"spec.model_args.pretraind"}


async def test_a_task_that_was_added_just_now_is_known(new_rig: NewRig, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rig = await new_rig(include_path=(folder,))
    spec = rig.spec(tasks=["added_later"])
    assert set(await refused(rig, spec)) == {"spec.tasks[0]"}
    (folder / "added_later.yaml").write_text("task: added_later\noutput_type: generate_until\n")
    await rig.submit(spec=spec)


async def test_a_request_may_bring_task_folders_of_its_own(rig: Rig, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.yaml").write_text("task: mine\noutput_type: generate_until\n")
    assert set(await refused(rig, rig.spec(tasks=["mine"]))) == {"spec.tasks[0]"}
    await rig.submit(spec=rig.spec(tasks=["mine"], include_path=[str(folder)]))


async def test_a_refusal_takes_milliseconds(rig: Rig) -> None:
    request = pb.EvaluateRequest(spec=rig.spec(tasks=["nope"]))
    await failure(rig.stub.Evaluate(request))
    took = []
    for _ in range(20):
        began = time.perf_counter()
        await failure(rig.stub.Evaluate(request))
        took.append(time.perf_counter() - began)
    assert min(took) < 0.1

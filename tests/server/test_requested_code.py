"""What a request may have the server run, and whom it may have it talk to: nothing, unless a setting allows it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.server.requested_code import CodeRules, refused_code
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import job_pb2
from tests.server.conftest import TASK, NewRig, failure, violations

Put = Callable[[job_pb2.EvaluationSpec], None]


def argument(**values: Any) -> Put:
    return lambda spec: spec.model_args.update(values)


def generation(**values: Any) -> Put:
    return lambda spec: spec.gen_kwargs.update(values)


REMOTE_CODE: list[tuple[str, Put]] = [
    ("spec.trust_remote_code", lambda spec: setattr(spec, "trust_remote_code", True)),
    ("spec.model_args.trust_remote_code", argument(trust_remote_code=True)),
    ("spec.model_args.device_map.Trust-Remote-Code", argument(device_map={"Trust-Remote-Code": "yes"})),
    ("spec.model_args.attn_implementation", argument(attn_implementation="someone/kernels:1")),
    ("spec.gen_kwargs.trust_remote_code", generation(trust_remote_code=True)),
    ("spec.gen_kwargs.custom_generate", generation(custom_generate="someone/decoding")),
    ("spec.gen_kwargs.sequence_bias[0].custom_generate", generation(sequence_bias=[{"custom_generate": "a/b"}])),
]


@pytest.mark.parametrize(("field", "put"), REMOTE_CODE, ids=[field for field, _ in REMOTE_CODE])
async def test_code_that_is_fetched_needs_permission(new_rig: NewRig, field: str, put: Put) -> None:
    rig = await new_rig()
    spec = rig.spec()
    put(spec)
    found = violations(await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=spec))))
    assert "trust_remote_code" in found[field]
    assert set(found) == {field}


@pytest.mark.parametrize("model", ["vllm", "sglang", "transformers_serve"])
def test_no_argument_is_an_option_of_an_inference_server_in_disguise(model: str) -> None:
    everything = CodeRules(trust_remote_code=True, allow_server_args=True)
    for rules in (CodeRules(), everything):
        for key, value in (
            ("pretrained", "--trust-remote-code"),
            ("pretrained", "--config=/tmp/mine.yaml"),
            ("model", "--middleware=mine.Middleware"),
            ("dtype", "-x"),
            ("chat_template", "--config=/tmp/mine.yaml"),
        ):
            spec = EvaluationSpec(model, (TASK,), {"pretrained": "org/model", key: value})
            assert [found.field for found in refused_code(spec, rules)] == [f"spec.model_args.{key}"]
        prompt = EvaluationSpec(model, (TASK,), {"pretrained": "org/my-model", "system_prompt": "- be brief"})
        assert not list(refused_code(prompt, rules))


async def test_switches_that_are_off_are_no_code(new_rig: NewRig) -> None:
    rig = await new_rig()
    spec = rig.spec()
    spec.model_args.update({"trust_remote_code": False, "attn_implementation": "flash_attention_2"})
    await rig.submit(spec=spec)


async def test_tasks_that_requests_bring_need_permission(new_rig: NewRig, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "mine.yaml").write_text(
        "task: mine\noutput_type: generate_until\ntest_split: test\ndataset_path: x\n"
        "doc_to_text: !function mine.text\ndoc_to_target: a\n"
    )
    (tmp_path / "mine.py").write_text(f"open({str(marker)!r}, 'w')\ndef text(doc):\n    return ''\n")
    rig = await new_rig(allow_task_files=False)
    for field, spec in (
        ("spec.include_path[0]", rig.spec(include_path=[str(tmp_path)])),
        ("spec.tasks[1]", rig.spec(tasks=[TASK, str(tmp_path / "mine.yaml")])),
        ("spec.tasks[0]", rig.spec(tasks=[str(tmp_path / "no-such.yml")])),
    ):
        found = violations(await failure(rig.stub.Evaluate(pb.EvaluateRequest(spec=spec))))
        assert set(found) == {field}
        assert "allow_task_files" in found[field]
    assert not marker.exists()


async def test_lmms_evals_own_backends_need_permission(tmp_path: Path) -> None:
    """The rules are asked directly: whether lmms-eval is installed does not change what its names stand for."""
    package = tmp_path / "lmms_eval" / "models"
    package.mkdir(parents=True)
    (tmp_path / "lmms_eval" / "__init__.py").touch()
    (package / "__init__.py").write_text('AVAILABLE_SIMPLE_MODELS = {"their_model": "Model"}\n')
    check = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from lmms_eval_grpc.jobs.spec import EvaluationSpec\n"
        "from lmms_eval_grpc.server.requested_code import CodeRules, refused_code\n"
        "for name in ('their_model', 'lmms_eval:their_model'):\n"
        "    spec = EvaluationSpec(name, ('t',))\n"
        "    (found,) = refused_code(spec, CodeRules())\n"
        "    assert found.field == 'spec.model' and 'allow_lmms_eval_models' in found.description, found\n"
        "    assert not list(refused_code(spec, CodeRules(allow_lmms_eval_models=True)))\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", check, str(tmp_path))
    assert await process.wait() == 0


@pytest.mark.parametrize("model", ["vllm", "sglang", "transformers_serve"])
def test_command_lines_of_inference_servers_are_not_for_requests(model: str) -> None:
    spec = EvaluationSpec(model, (TASK,), {"pretrained": "a/b", "server_args": {"middleware": "os.system"}})
    (found,) = refused_code(spec, CodeRules())
    assert found.field == "spec.model_args.server_args"
    assert "allow_server_args" in found.description
    assert not list(refused_code(spec, CodeRules(allow_server_args=True)))


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("http://judge:8000/v1", True),
        ("HTTP://JUDGE:8000/v1", True),
        ("https://api.example.com/v1", True),
        ("https://api.example.com./v1", True),
        ("http://api.example.com:80/v1", True),
        ("http://judge/v1", False),  # another port
        ("http://judge:8001/v1", False),
        ("http://169.254.169.254/latest", False),
        ("http://api.example.com@evil.net/", False),
        ("http://api.example.com%40evil.net/", False),
        ("http://evil.net#@api.example.com/", False),
        ("http://evil.net\\@api.example.com/", False),
        ("http://api.example.com.evil.net/", False),
        (" http://api.example.com/v1", False),
        ("ftp://api.example.com/", False),
        ("http://[::1/", False),
        ("http://api.example.com:99999/", False),
        ("", False),
    ],
)
def test_models_are_asked_at_allowed_hosts_only(address: str, allowed: bool) -> None:
    rules = CodeRules(allowed_api_hosts=("api.example.com", "judge:8000"))
    spec = EvaluationSpec("openai", (TASK,), {"model": "m", "base_url": address})
    found = list(refused_code(spec, rules))
    assert bool(found) is not allowed
    assert not found or (found[0].field, "allowed_api_hosts" in found[0].description) == (
        "spec.model_args.base_url",
        True,
    )
    assert not list(refused_code(spec, CodeRules()))

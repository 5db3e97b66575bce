"""A program written for lmms-eval's client runs with another import and another address, against a real server.

lmms-eval's own files say what it expects: the signatures of its clients, the models of its server's answers, and the
examples of its README.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc import AsyncEvalClient, EvalClient
from lmms_eval_grpc.client import JobFailed
from tests.client.scripted_server import ScriptedServer
from tests.clients.conftest import HeldServer
from tests.end_to_end.conftest import wait_until
from tests.support.lmms_eval_files import PACKAGE, RELEASE, ROOT, require_lmms_eval

require_lmms_eval()
pytest.importorskip("httpx")

TASKS = ["held_digits"]


def load(name: str) -> types.ModuleType:
    """A module of lmms-eval's entrypoints, without the package around it and what that imports."""
    spec = importlib.util.spec_from_file_location(f"lmms_eval_{name}", PACKAGE / "entrypoints" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks its annotations up there
    spec.loader.exec_module(module)
    return module


THEIRS, PROTOCOL = load("client"), load("protocol")


def methods(kind: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]


CALLS = [
    (theirs, ours, name)
    for theirs, ours in ((THEIRS.EvalClient, EvalClient), (THEIRS.AsyncEvalClient, AsyncEvalClient))
    for name in ["__init__", *methods(theirs)]
]


@pytest.mark.parametrize(("theirs", "ours", "name"), CALLS, ids=[f"{ours.__name__}.{name}" for _, ours, name in CALLS])
def test_every_method_takes_the_same_arguments(theirs: type, ours: type, name: str) -> None:
    expected = inspect.signature(getattr(theirs, name)).parameters
    actual = inspect.signature(getattr(ours, name)).parameters
    assert list(actual)[: len(expected)][:-1] == list(expected)[:-1]
    for parameter in expected.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            # The asyncio client there says no more than **kwargs; they are those of the sync client.
            assert list(inspect.signature(THEIRS.EvalClient.evaluate).parameters) == list(actual)[:-1]
            continue
        assert actual[parameter.name].kind is parameter.kind
        if parameter.name != "base_url":
            assert actual[parameter.name].default == parameter.default
    assert inspect.iscoroutinefunction(getattr(theirs, name)) == inspect.iscoroutinefunction(getattr(ours, name))


def test_every_answer_has_the_same_keys_and_types(server: HeldServer, tiny_checkpoint: Path) -> None:
    """The answers pass the models that lmms-eval's server makes its own with."""
    with EvalClient(f"http://{server.address}/") as client:
        conforms(client.health(), PROTOCOL.HealthResponse)
        assert client.is_healthy()
        assert "held_digits" in client.list_tasks()
        assert "huggingface" in client.list_models()
        server.hold.touch()
        try:
            job = client.evaluate("huggingface", TASKS, {"pretrained": str(tiny_checkpoint)}, limit=2)
            conforms(job, PROTOCOL.JobSubmitResponse)
            waiting = client.evaluate("huggingface", TASKS, {"pretrained": str(tiny_checkpoint)})
            assert conforms(client.get_job(waiting["job_id"]), PROTOCOL.JobInfo).position_in_queue is not None
            wait_until(lambda: client.get_job(job["job_id"])["status"] == "running", 120, server.log)
            queue = conforms(client.get_queue_status(), PROTOCOL.QueueStatusResponse)
            assert (queue.running_job, queue.queued_jobs) == (job["job_id"], [waiting["job_id"]])
            assert "message" in client.cancel_job(waiting["job_id"])
        finally:
            server.hold.unlink()
        assert client.wait_for_job(waiting["job_id"], verbose=False)["status"] == "cancelled"
        done = conforms(client.wait_for_job(job["job_id"], verbose=False), PROTOCOL.JobInfo)
        assert done.result is not None
        assert 0 <= done.result["results"]["held_digits"]["exact_match,none"] <= 1
        json.dumps(done.result)


def conforms(answer: dict[str, Any], model: Any) -> Any:
    assert answer.keys() >= model.model_fields.keys()
    return model.model_validate(answer)


def test_a_merge_answers_with_the_same_keys() -> None:
    scripted = ScriptedServer()
    try:
        with EvalClient(scripted.address) as client:
            assert conforms(client.merge_checkpoint("/c"), PROTOCOL.MergeResponse).merged_path == "/out"
    finally:
        scripted.stop()


def test_a_failure_is_a_runtime_error_with_the_end_of_the_log(server: HeldServer, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with EvalClient(server.address) as client:
        job = client.evaluate("huggingface", TASKS, {"pretrained": str(tmp_path)})
        with pytest.raises(RuntimeError, match="Job failed: ") as caught:
            client.wait_for_job(job["job_id"])
        assert isinstance(caught.value, JobFailed)
        assert conforms(client.get_job(job["job_id"]), PROTOCOL.JobInfo).error in str(caught.value)


def examples() -> dict[str, str]:
    """The Python examples of the section on the client in lmms-eval's README, by what distinguishes them."""
    readme = (ROOT / f"lmms_eval-{RELEASE}.dist-info" / "METADATA").read_text()
    section = readme[readme.index("### Client Usage") : readme.index("### Security Note")]
    sync, aio, loop = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return {"sync": sync, "async": aio, "training loop": loop}


def change_two_lines(example: str, server: HeldServer) -> str:
    """The import and the address."""
    changed = example.replace("from lmms_eval.entrypoints import", "from lmms_eval_grpc import")
    changed = changed.replace("http://eval-server:8000", f"http://{server.address}")
    pairs = zip(example.splitlines(), changed.splitlines(), strict=True)
    assert [before != after for before, after in pairs].count(True) == 2
    return changed


def fit_to_the_test(example: str, checkpoint: Path) -> str:
    """Another checkpoint, another task, and any device: what is evaluated, not how it is asked for."""
    example = re.sub(r"Qwen/[\w.-]+", str(checkpoint), example)
    example = re.sub(r"tasks=\[.*?\]", f"tasks={TASKS}", example)
    example = re.sub(r'model="\w+"', 'model="huggingface"', example)
    return example.replace('device="cuda:0"', 'device="cpu"').replace('"model": checkpoint', '"pretrained": checkpoint')


async def run(code: str, **names: Any) -> dict[str, Any]:
    """Runs an example, which may await at its top level."""
    compiled = compile(code, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    pending = eval(compiled, names)
    if pending is not None:
        await pending
    return names


@pytest.mark.parametrize("name", ["sync", "async"])
async def test_the_examples_of_the_readme_run(
    server: HeldServer, tiny_checkpoint: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example = change_two_lines(examples()[name], server)
    result = (await run(fit_to_the_test(example, tiny_checkpoint)))["result"]
    assert result["status"] == "completed"
    assert "exact_match,none" in result["result"]["results"]["held_digits"]
    printed = capsys.readouterr().out
    assert "completed" in printed
    assert ("'exact_match,none'" in printed) == (name == "sync")


async def test_the_training_loop_of_the_readme_runs(server: HeldServer, tiny_checkpoint: Path, tmp_path: Path) -> None:
    trained: list[Path] = []

    def train_one_epoch() -> None:
        trained.append(tmp_path / "checkpoints" / f"epoch_{len(trained)}")
        trained[-1].parent.mkdir(exist_ok=True)
        trained[-1].symlink_to(tiny_checkpoint)

    example = fit_to_the_test(examples()["training loop"], tiny_checkpoint)
    example = example.replace('f"checkpoints', f'f"{tmp_path}/checkpoints')
    # The one line that the pseudocode leaves out.
    submitted = "        # Training continues immediately\n"
    assert submitted in example
    example = example.replace(submitted, '        eval_jobs.append(eval_job["job_id"])\n')
    with EvalClient(f"http://{server.address}") as client:
        names = await run(example, num_epochs=6, train_one_epoch=train_one_epoch, client=client, eval_jobs=[])
    assert [result["status"] for result in names["results"]] == ["completed", "completed"]
    evaluated = [result["request"]["model_args"]["pretrained"] for result in names["results"]]
    assert evaluated == [f"{tmp_path}/checkpoints/epoch_0", f"{tmp_path}/checkpoints/epoch_5"]


def test_samples_are_written_while_the_job_runs(server: HeldServer, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with EvalClient(server.address) as client:
        server.hold.touch()
        job_id = client.evaluate("huggingface", TASKS, {"pretrained": str(tiny_checkpoint)})["job_id"]
        path = tmp_path / "samples.jsonl"
        lines: list[int] = []
        writer = threading.Thread(
            target=lambda: lines.append(client.samples(job_id, "held_digits", follow=True).to_jsonl(path))
        )
        writer.start()
        wait_until(path.exists, 60, server.log)
        assert path.read_text() == ""
        server.hold.unlink()
        writer.join(120)
        assert lines == [8]
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert records == client.samples(job_id).to_list()
        assert list(client.samples(job_id).to_pandas()["scores.exact_match"]) == [
            record["scores"]["exact_match"] for record in records
        ]

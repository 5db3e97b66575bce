"""Inference servers that a job starts: real processes, and transformers serve with a real model."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.managed import backend as managed
from lmms_eval_grpc.engine.models.managed import commands, server
from lmms_eval_grpc.engine.models.managed.backend import ManagedBackend
from lmms_eval_grpc.engine.models.managed.commands import ServerCommand
from lmms_eval_grpc.engine.models.protocol import GenerationRequest, GenerationResponse
from lmms_eval_grpc.engine.run.evaluate import SAMPLES, evaluate
from lmms_eval_grpc.engine.run.log import read_sound_lines
from tests.support.reporters import Recorder

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "support" / "inference_server.py"
KEY = "sk-of-this-server"
PATIENCE = 60.0
"""Seconds; for what ends in a moment on an idle machine."""


def values(name: str = "transformers_serve", **model_args: Any) -> dict[str, Any]:
    entry = registry.resolve(name)
    assert entry is not None
    arguments = {"pretrained": "the-model", "retry_backoff_s": 0.01, **model_args}
    assert entry.check_args(arguments) == []
    return entry.fill_in(arguments)


def start(state: Path, **model_args: Any) -> ManagedBackend:
    command = ServerCommand(
        "transformers", (sys.executable, str(PROGRAM), "--state", str(state)), key_option="--api-key"
    )
    return managed.start(command, KEY, values(**model_args))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., ManagedBackend]]:
    """Starts the small server; whatever was started is closed at the end."""
    started = []

    def begin(**model_args: Any) -> ManagedBackend:
        started.append(start(tmp_path, **model_args))
        return started[-1]

    yield begin
    for backend in started:
        backend.close()


def answers(backend: ManagedBackend, texts: list[str]) -> list[GenerationResponse]:
    requests = [
        GenerationRequest([{"role": "user", "content": [{"type": "text", "text": text}]}], {}) for text in texts
    ]
    found = [answer for batch in backend.generate(requests) for answer in batch]
    assert sorted(answer.index for answer in found) == list(range(len(texts)))
    return [answer.response for answer in sorted(found, key=lambda answer: answer.index)]


def processes(state: Path) -> list[int]:
    """Every process that the small server ever was or started."""
    return [int(line) for line in (state / "pids").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def test_a_server_is_started_asked_and_ended(
    running: Callable[..., ManagedBackend], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    backend = running()
    responses = answers(backend, [str(number) for number in range(50)])
    assert [response.text for response in responses] == [f"the-model heard {number}" for number in range(50)]
    assert all(is_alive(pid) for pid in processes(tmp_path))
    backend.close()
    assert len(processes(tmp_path)) == 2
    wait_for(lambda: not any(is_alive(pid) for pid in processes(tmp_path)))
    log = capfd.readouterr().err
    assert "[transformers] loading the model" in log
    assert "[transformers] the key is [redacted]" in log
    assert KEY not in log
    assert "POST" not in log


def test_a_server_that_ends_at_its_start_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "ends").touch()
    with pytest.raises(EvaluationError, match="there is no such checkpoint") as caught:
        start(tmp_path)
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    assert "status 1" in caught.value.message
    wait_for(lambda: not any(is_alive(pid) for pid in processes(tmp_path)))


def test_a_server_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    (tmp_path / "sick").touch()
    with pytest.raises(EvaluationError, match="startup_timeout") as caught:
        start(tmp_path, startup_timeout=3)
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    wait_for(lambda: not any(is_alive(pid) for pid in processes(tmp_path)))


def test_a_server_that_does_not_heed_sigterm_is_killed_with_all_it_started(
    running: Callable[..., ManagedBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_GRACE", 0.5)
    (tmp_path / "stubborn").touch()
    running().close()
    wait_for(lambda: not any(is_alive(pid) for pid in processes(tmp_path)))


def test_a_server_that_dies_is_started_again_and_every_request_is_answered(
    running: Callable[..., ManagedBackend], tmp_path: Path
) -> None:
    (tmp_path / "dies").write_text("1")
    backend = running(max_retries=1)
    texts = [*map(str, range(40)), "die", *map(str, range(40, 80))]
    assert [response.text for response in answers(backend, texts)] == [f"the-model heard {text}" for text in texts]
    assert backend.server.generation() == 1
    assert len(processes(tmp_path)) == 4


def test_a_server_that_dies_again_ends_the_evaluation(running: Callable[..., ManagedBackend], tmp_path: Path) -> None:
    (tmp_path / "dies").write_text("2")
    backend = running()
    with pytest.raises(EvaluationError, match="status -9") as caught:
        answers(backend, ["die"])
    assert caught.value.reason == "MODEL_SERVER_DIED"
    backend.close()
    wait_for(lambda: not any(is_alive(pid) for pid in processes(tmp_path)))


@pytest.mark.parametrize("victim", ["worker", "its group", "guard"])
def test_a_server_does_not_outlive_the_process_that_started_it(tmp_path: Path, victim: str) -> None:
    program = f"""
import time
from pathlib import Path
from tests.engine.test_models_managed import start
backend = start(Path({str(tmp_path)!r}))
print(backend.server._process.pid, flush=True)
time.sleep(600)
"""
    worker = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT, text=True, start_new_session=True
    )
    assert worker.stdout is not None
    try:
        guard = int(worker.stdout.readline())
        first = processes(tmp_path)[0]
        assert is_alive(first)
        if victim == "guard":
            os.kill(guard, signal.SIGKILL)
            wait_for(lambda: not is_alive(first))
        else:
            (os.kill if victim == "worker" else os.killpg)(worker.pid, signal.SIGKILL)
            wait_for(lambda: not any(is_alive(pid) for pid in [guard, *processes(tmp_path)]))
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
        for pid in processes(tmp_path)[1::2]:  # without its guard, the server's own child is left to an executor
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_the_identity_is_the_same_at_every_start(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        backend = start(tmp_path)
        found.append(json.dumps(backend.identity))
        backend.close()
    assert found[0] == found[1]
    assert KEY not in found[0]


def test_the_identity_has_no_secrets_and_what_the_chat_template_says(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    found = []
    for text in ("one", "two"):
        template.write_text(text)
        given = values("sglang", chat_template=str(template), server_args={"hf_token": "hush", "log_level": "info"})
        built = commands.sglang(given, "cpu", KEY)
        assert "hush" in built.arguments
        command = ServerCommand(
            "transformers",
            (sys.executable, str(PROGRAM), "--state", str(tmp_path), "--hf-token", "hush"),
            key_option="--api-key",
        )
        backend = managed.start(command, KEY, given)
        found.append(json.dumps(backend.identity))
        backend.close()
        assert json.loads((tmp_path / "argv").read_text()).count("hush") == 1
    assert found[0] != found[1]
    assert "--hf-token" in found[0]
    assert "hush" not in found[0]


def test_vllm_is_started_with_what_users_of_lmms_eval_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    command = commands.vllm(
        values(
            "vllm",
            max_model_len=8192,
            data_parallel_size=2,
            enforce_eager=True,
            limit_mm_per_prompt={"image": 4},
            trust_remote_code=True,
            server_args={"mm_encoder_tp_mode": "data"},
        ),
        "cuda",
        KEY,
    )
    line = command.line(8123, KEY)
    assert line[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", "the-model"]
    assert line[5:] == [
        "--dtype", "auto", "--gpu-memory-utilization", "0.8", "--max-model-len", "8192", "--enforce-eager",
        "--limit-mm-per-prompt", '{"image": 4}', "--tensor-parallel-size", "2", "--data-parallel-size", "2",
        "--trust-remote-code", "--mm-encoder-tp-mode", "data", "--host", "127.0.0.1", "--port", "8123",
    ]  # fmt: skip
    assert command.environment == {"VLLM_API_KEY": KEY}


def test_sglang_is_started_by_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    line = commands.sglang(values("sglang"), "cuda", KEY).line(1, KEY)
    assert line[1:] == [
        "-m", "sglang.launch_server", "--model-path", "the-model", "--dtype", "auto", "--tp-size", "1", "--dp-size",
        "1", "--mem-fraction-static", "0.8", "--host", "127.0.0.1", "--port", "1", "--api-key", KEY,
    ]  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_server_that_is_not_installed_is_named() -> None:
    with pytest.raises(EvaluationError, match="pip install vllm") as caught:
        registry.create("vllm", {"model": "x"}, device="cpu")
    assert caught.value.reason == "MISSING_PACKAGES"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_the_way_from_the_name_vllm_to_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small server installed under vLLM's name: whether vLLM itself takes this command line is not seen here."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "main.py").write_text(PROGRAM.read_text())
    info = tmp_path / "site" / "vllm-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 1.2.3\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    arguments = {"model": "Qwen/Qwen2.5-VL-3B-Instruct", "server_args": {"state": str(tmp_path)}}
    backend = registry.create("vllm_chat", arguments, device="cpu")
    assert isinstance(backend, ManagedBackend)
    try:
        assert answers(backend, ["Q"])[0].text == "Qwen/Qwen2.5-VL-3B-Instruct heard Q"
        assert backend.identity["vllm_version"] == "1.2.3"
        assert "--api-key" not in json.loads((tmp_path / "argv").read_text())
    finally:
        backend.close()


def scored(model: str, checkpoint: Path, folder: Path, **model_args: Any) -> dict[int, tuple[Any, Any]]:
    """Response and scores by document, of sixty digits."""
    config = EvaluationConfig(
        model, ("handwritten_digits",), {"pretrained": str(checkpoint), **model_args}, limit=60,
        gen_kwargs={"until": "\n\n"},
    )  # fmt: skip
    (score,) = evaluate(config, folder, Recorder()).tasks
    assert (score.samples_scored, score.samples_errored) == (60, 0)
    return {line["doc_id"]: (line["responses"], line["scores"]) for line in read_sound_lines(folder / SAMPLES)[1]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_transformers_serve_gives_the_scores_of_the_model_in_this_process(
    trained: dict[int, Path], tmp_path: Path
) -> None:
    checkpoint = trained[100]  # knows some digits and not others
    here = scored("idefics3", checkpoint, tmp_path / "here")
    assert len({str(value) for value in here.values()}) > 4
    served = registry.create("transformers_serve", {"pretrained": str(checkpoint)}, device="cpu")
    assert isinstance(served, ManagedBackend)
    try:
        # The same server as one that somebody else started: it is sent stop strings, and refuses them.
        there = scored("openai", checkpoint, tmp_path / "there", base_url=served.server.base_url, api_key="x")
        config = EvaluationConfig("transformers_serve", ("handwritten_digits",), limit=60)
        evaluate(config, tmp_path / "managed", Recorder(), backend=served)
        lines = read_sound_lines(tmp_path / "managed" / SAMPLES)[1]
        own = {line["doc_id"]: (line["responses"], line["scores"]) for line in lines}
    finally:
        served.close()
    assert there == here
    assert own == here

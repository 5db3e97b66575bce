"""Merging through the real service: real FSDP2 shards and workers, kills, cancellation, evaluations that merge."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmms_eval_grpc import EvalClient, InvalidRequest, JobFailed
from lmms_eval_grpc.engine.checkpoints.staging import staging_folder
from lmms_eval_grpc.v1 import job_pb2
from tests.end_to_end.conftest import ServerProcess
from tests.support.sharded_checkpoints import ShardedFolders

LIMIT = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("server")).start()
    started.wait_warm()
    yield started
    started.stop()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[EvalClient]:
    with server.client() as made:
        yield made


def assert_same_weights(merged: Path, wanted: Path) -> None:
    found = {name: value for path in merged.glob("*.safetensors") for name, value in load_file(path).items()}
    truth = load_file(wanted / "model.safetensors")
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name].view(torch.uint8), value.view(torch.uint8)), name


def test_a_merge_is_a_job_with_lmms_evals_answer(
    client: EvalClient, sharded_digits: ShardedFolders, tmp_path: Path
) -> None:
    told = client.merge_checkpoint(sharded_digits.engine, tmp_path / "merged", "ema", labels={"step": "10"})
    assert told["success"] is True
    assert told["merged_path"] == str(tmp_path / "merged")
    assert_same_weights(tmp_path / "merged", sharded_digits.plain(ema=True))
    job = client.get(told["job_id"])
    assert job.kind == job_pb2.JOB_KIND_MERGE
    assert dict(job.labels) == {"step": "10"}
    assert job.progress.stage == job_pb2.JOB_STAGE_MERGING
    assert job.progress.bytes_done == job.progress.bytes_total == job.merge_result.size_bytes > 0
    assert job.merge_result.tensor_count == len(load_file(tmp_path / "merged" / "model.safetensors"))
    assert job.merge_result.file_count == 1


def test_without_a_place_the_merged_checkpoint_goes_beside_the_sharded_one(
    client: EvalClient, sharded_digits: ShardedFolders, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sharded_digits.accelerate.parent, run)
    # The folder of the whole run: its newest checkpoint is meant.
    key = str(uuid.uuid4())
    told = client.merge_checkpoint(run, request_id=key)
    assert told["merged_path"] == str(run / "merged-checkpoint-10")
    assert_same_weights(run / "merged-checkpoint-10", sharded_digits.plain())
    # Repeated, the call gets its job, although the output is there now; another one is refused.
    assert client.merge_checkpoint(run, request_id=key)["job_id"] == told["job_id"]
    with pytest.raises(InvalidRequest, match="exists already"):
        client.merge_checkpoint(run)


def scores(job: dict[str, Any]) -> Any:
    assert job["status"] == "completed", job
    return job["result"]["results"]["handwritten_digits"]["exact_match,none"]


def test_an_evaluation_merges_if_it_is_told_to_and_scores_the_same(
    server: ServerProcess, client: EvalClient, sharded_digits: ShardedFolders
) -> None:
    def evaluate(pretrained: Path, **options: Any) -> dict[str, Any]:
        submitted = client.evaluate(
            model="idefics3",
            tasks=["handwritten_digits"],
            model_args={"pretrained": str(pretrained)},
            limit=LIMIT,
            **options,
        )
        return client.wait_for_job(submitted["job_id"], verbose=False, timeout=240)

    sharded = sharded_digits.accelerate.parent
    with pytest.raises(InvalidRequest) as caught:
        evaluate(sharded)
    (violation,) = caught.value.violations
    assert violation.field == "spec.model_args.pretrained"
    assert f"EvalClient.merge_checkpoint({str(sharded)!r})" in violation.description
    assert f"lmms-eval-grpc merge {sharded}" in violation.description

    plain = evaluate(sharded_digits.plain())
    merged = evaluate(sharded, merge="auto")
    assert scores(merged) == scores(plain) > 0.8

    def identity(job: dict[str, Any]) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(client.get(job["job_id"]).evaluation_result.manifest_json)
        return manifest["model"]

    assert identity(merged)["merged_from"] == str(sharded_digits.accelerate), "the newest step of the run"
    assert "merged_from" not in identity(plain)
    # By content: the same weights, configuration and processor, wherever they lie.
    assert identity(merged)["weights_digest"] == identity(plain)["weights_digest"]
    assert client.get(merged["job_id"]).evaluation_result.throughput.stage_elapsed["merging"].nanos > 0
    left = server.state_dir / "jobs" / merged["job_id"]
    assert not [path for path in left.iterdir() if "merg" in path.name]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes a moment to merge: 256 MiB in two shards."""
    folder = tmp_path_factory.mktemp("large")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 1024}
    config |= {"intermediate_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 8}
    config |= {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    script = """
import sys, torch, transformers
import torch.distributed.checkpoint as dcp
torch.set_num_threads(1)
config = transformers.AutoConfig.from_pretrained(sys.argv[1])
with torch.device("meta"):
    state = transformers.LlamaForCausalLM(config).state_dict()
values = {name: torch.full(tensor.shape, 0.5) for name, tensor in state.items()}
dcp.save(values, checkpoint_id=sys.argv[1] + "/shards", no_dist=True)
"""
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, timeout=240)
    return folder


def stop_in_the_middle(server: ServerProcess, output: Path) -> int:
    """Freezes the worker that is writing ``output``; returns its process id."""
    staging = staging_folder(output)

    def writing() -> bool:
        return staging.is_dir() and any(path.stat().st_size > 2**20 for path in staging.glob("*.safetensors"))

    deadline = time.monotonic() + 240
    while not writing():
        assert time.monotonic() < deadline, server.log()
        assert not output.exists(), "the merge was over before it could be stopped"
        time.sleep(0.001)
    (worker,) = (process.pid for process in server.descendants() if process.name() == "eval-worker")
    os.kill(worker, signal.SIGSTOP)
    assert not output.exists()
    return worker


def test_a_worker_that_is_killed_leaves_no_half_checkpoint_and_the_next_attempt_succeeds(
    server: ServerProcess, client: EvalClient, large: Path, tmp_path: Path
) -> None:
    output = tmp_path / "merged"
    first = client.merge_checkpoint(large, output, wait=False)["job_id"]
    os.kill(stop_in_the_middle(server, output), signal.SIGKILL)
    with pytest.raises(JobFailed):
        client.wait_for_job(first, verbose=False, timeout=120)
    assert client.get(first).error.code == job_pb2.JOB_ERROR_CODE_WORKER_DIED
    assert not output.exists()
    assert staging_folder(output).is_dir()
    told = client.merge_checkpoint(large, output)
    assert told["success"]
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    assert all((value == 0.5).all() for value in load_file(output / "model.safetensors").values())


def test_a_merge_is_cancelled_in_the_middle_and_leaves_nothing(
    server: ServerProcess, client: EvalClient, large: Path, tmp_path: Path
) -> None:
    output = tmp_path / "merged"
    job_id = client.merge_checkpoint(large, output, wait=False)["job_id"]
    worker = stop_in_the_middle(server, output)
    client.cancel_job(job_id, reason="wrong step")
    os.kill(worker, signal.SIGCONT)
    states = [e.state_change.state for e in client.watch_job(job_id) if e.HasField("state_change")]
    assert states[-1] == job_pb2.JOB_STATE_CANCELLED
    assert not output.exists()
    log = (server.state_dir / "jobs" / job_id / "worker.log").read_text()
    if "stopped, as asked" in log:  # else it was killed, having been given too little of the machine to stop by itself
        assert not list(tmp_path.iterdir())


def test_a_job_that_cannot_be_merged_says_why(
    client: EvalClient, sharded_digits: ShardedFolders, large: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="whole checkpoint already"):
        client.merge_checkpoint(sharded_digits.plain(), tmp_path / "merged")
    told = client.merge_checkpoint(
        sharded_digits.accelerate, tmp_path / "merged", config_path=large, wait=False, priority=3
    )
    with pytest.raises(JobFailed, match="NAMES_DO_NOT_MATCH"):
        client.wait_for_job(told["job_id"], verbose=False, timeout=120)
    error = client.get(told["job_id"]).error
    assert error.code == job_pb2.JOB_ERROR_CODE_INVALID
    assert "LlamaForCausalLM" in error.message
    assert not list(tmp_path.iterdir())


def test_the_command_line_merges_on_the_server_and_without_one(
    server: ServerProcess, sharded_digits: ShardedFolders, tmp_path: Path
) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lmms_eval_grpc", *words],
            env={**os.environ, "LMMS_EVAL_GRPC_ADDRESS": server.address},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    checkpoint = str(sharded_digits.app)
    done = run("merge", checkpoint, "--output", str(tmp_path / "a"), "--max-shard-size", "200KB", "--watch")
    assert done.returncode == 0, done.stderr
    assert f"merged checkpoint: {tmp_path / 'a'}" in done.stdout
    assert (tmp_path / "a" / "model.safetensors.index.json").is_file()
    assert_same_weights(tmp_path / "a", sharded_digits.plain())

    local = run("--json", "merge", checkpoint, "--output_path", str(tmp_path / "b"), "--ema", "--local")
    assert local.returncode == 0, local.stderr
    assert json.loads(local.stdout)["folder"] == str(tmp_path / "b")
    assert_same_weights(tmp_path / "b", sharded_digits.plain(ema=True))

    again = run("merge", checkpoint, "--output_path", str(tmp_path / "b"), "--local")
    assert again.returncode == 1
    assert "OUTPUT_EXISTS" in again.stderr

"""Replicas on GPUs; on a machine with one, two of them share it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.models.replicas.backend import ReplicatedBackend
from lmms_eval_grpc.engine.run.evaluate import evaluate, load_backend
from tests.engine.test_replicas import Assassin, metrics, pids, texts
from tests.support.reporters import Recorder
from tests.support.stuck_run import digits_config
from tests.support.task_files import datasets_cache

__all__ = ["datasets_cache"]


@pytest.mark.gpu
def test_replicas_on_gpus_answer_as_one_gpu_does_also_when_one_dies(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
    config = digits_config(tiny("idefics3"), device="cuda", gen_kwargs={"max_new_tokens": 4})
    alone = evaluate(config, tmp_path / "one", Recorder())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join((visible * 2)[:2]))
    backend = load_backend(digits_config(tiny("idefics3"), device="cuda", num_gpus=2))
    assert isinstance(backend, ReplicatedBackend)
    try:
        together = evaluate(config, tmp_path / "two", Recorder(), backend=backend)
        assassin = Assassin(pids=pids(backend)[:1])
        bereaved = evaluate(config, tmp_path / "three", assassin, backend=backend)
    finally:
        backend.close()
    assert not assassin.pids
    assert metrics(together) == metrics(bereaved) == metrics(alone)
    assert texts(tmp_path / "two") == texts(tmp_path / "three") == texts(tmp_path / "one")
    assert together.manifest["device"]["type"] == "cuda"

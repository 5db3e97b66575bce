"""Real images, real models, the shipped task: from a configuration to scores."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.models.huggingface.backend import HuggingFaceBackend
from lmms_eval_grpc.engine.run.evaluate import RUN_LOG, SAMPLES, evaluate, load_backend
from lmms_eval_grpc.engine.run.log import read_sound_lines
from tests.support import stuck_run
from tests.support.checkpoints import SEEING, small_args
from tests.support.reporters import Recorder
from tests.support.stuck_run import digits_config
from tests.support.task_files import png

ROOT = Path(__file__).resolve().parents[2]
Tiny = Callable[[str], Path]


def answers_in(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_sound_lines(run_dir / RUN_LOG)[1] if line["kind"] == "answer"]


def texts_in(run_dir: Path) -> dict[int, list[str]]:
    return {sample["doc_id"]: sample["responses"] for sample in read_sound_lines(run_dir / SAMPLES)[1]}


@pytest.mark.parametrize("family", SEEING)
def test_every_family_goes_through_an_evaluation(family: str, tiny: Tiny, tmp_path: Path) -> None:
    if family == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("SmolVLM's processor needs num2words")
    model_args = {"pretrained": str(tiny(family)), **small_args(family)}
    config = EvaluationConfig(family, ("handwritten_digits",), model_args, limit=6)
    reporter = Recorder()
    outcome = evaluate(config, tmp_path, reporter)
    assert reporter.scores == list(outcome.tasks)
    (score,) = outcome.tasks
    assert (score.samples_asked, score.samples_scored, score.samples_errored) == (6, 6, 0)
    assert 0.0 <= score.metrics[0].value <= 1.0
    assert len(texts_in(tmp_path)) == 6
    saved = json.loads((tiny(family) / "config.json").read_text())
    assert outcome.manifest["model"]["model_type"] in (saved["model_type"], f"{saved['model_type']}_thinker")
    assert outcome.input_tokens > outcome.output_tokens > 0


def test_scores_do_not_depend_on_the_batch_size(tiny: Tiny, tmp_path: Path) -> None:
    found = []
    for batch_size in (1, 3, 32, None):
        config = digits_config(tiny("idefics3"), batch_size=batch_size, gen_kwargs={"max_new_tokens": 8})
        outcome = evaluate(config, tmp_path / str(batch_size), Recorder())
        found.append((outcome.tasks[0].metrics, texts_in(tmp_path / str(batch_size))))
    assert found[1:] == found[:1] * 3


@pytest.mark.slow
def test_a_model_that_learned_to_read_digits_scores_above_nine_in_ten(trained: dict[int, Path], tmp_path: Path) -> None:
    scores = {}
    for step, checkpoint in trained.items():
        config = EvaluationConfig("idefics3", ("handwritten_digits",), {"pretrained": str(checkpoint)})
        (score,) = evaluate(config, tmp_path / str(step), Recorder()).tasks
        assert score.samples_scored == 360
        scores[step] = score.metrics[0].value
    assert scores[0] < 0.05
    assert scores[200] >= 0.90
    assert scores[300] >= 0.90


def counting_backend(config: EvaluationConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[HuggingFaceBackend, list[int]]:
    """The configuration's real model, and the number of rows of each call of its ``generate``, growing as they come."""
    backend = load_backend(config)
    assert isinstance(backend, HuggingFaceBackend)
    rows: list[int] = []
    generate = backend.model.generate

    def counted(**inputs: Any) -> Any:
        rows.append(len(inputs["input_ids"]))
        return generate(**inputs)

    monkeypatch.setattr(backend.model, "generate", counted)
    return backend, rows


def test_after_kill_9_exactly_the_unanswered_samples_are_generated(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, run_dir = tiny("idefics3"), tmp_path / "run"
    command = [sys.executable, stuck_run.__file__, str(checkpoint), str(run_dir), "101"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "104"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()

    log = run_dir / RUN_LOG
    answered = len(answers_in(run_dir))
    assert answered == 104
    with log.open("ab") as file:
        file.write(b'{"kind": "answer", "identity": "torn by the cra')
    with (run_dir / SAMPLES).open("ab") as file:
        file.write(b'{"task": "handwri')

    config = digits_config(checkpoint, **stuck_run.MANY)
    backend, rows = counting_backend(config, monkeypatch)
    outcome = evaluate(config, run_dir, Recorder(), backend=backend)
    assert sum(rows) == 200 - answered
    assert len(answers_in(run_dir)) == 200
    undisturbed = evaluate(config, tmp_path / "undisturbed", Recorder(), backend=backend)
    assert outcome.tasks[0].metrics == undisturbed.tasks[0].metrics
    assert texts_in(run_dir) == texts_in(tmp_path / "undisturbed")
    lines = (run_dir / SAMPLES).read_text().splitlines()
    assert len(lines) == 200
    assert len(texts_in(run_dir)) == 200


def test_rewritten_weights_are_not_answered_from_the_log(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny("idefics3"), tmp_path / "checkpoint")
    config, run_dir = digits_config(folder), tmp_path / "run"
    with pytest.raises(EvaluationCancelled):
        evaluate(config, run_dir, Recorder(cancel_at=20))
    path = folder / "model.safetensors"
    before = path.stat()
    weights = load_file(path)
    save_file({name: -value for name, value in weights.items()}, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    backend, rows = counting_backend(config, monkeypatch)
    evaluate(config, run_dir, Recorder(), backend=backend)
    assert sum(rows) == 60
    assert (run_dir / f"{RUN_LOG}.1").exists()


def test_cancelling_stops_between_batches(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = digits_config(tiny("idefics3"))
    backend, rows = counting_backend(config, monkeypatch)
    with pytest.raises(EvaluationCancelled):
        evaluate(config, tmp_path, Recorder(cancel_at=10), backend=backend)
    assert rows == [4, 4, 4]
    assert len(answers_in(tmp_path)) == 12


def write_pictures_task(folder: Path, count: int, corrupt: set[int]) -> Path:
    """A task over small pictures, some of them cut off in the middle; returns its folder."""
    pictures = [png(Image.new("RGB", (12, 8), (5 * number, 0, 0))) for number in range(count)]
    rows = [
        {"bytes": data[: len(data) - 30] if number in corrupt else data, "path": None}
        for number, data in enumerate(pictures)
    ]
    features = datasets.Features({"image": datasets.Image(), "answer": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": rows, "answer": ["7"] * count}, features=features)
    table.to_parquet(str(folder / "pictures.parquet"))
    task = {
        "task": "pictures",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": "pictures.parquet"}},
        "test_split": "test",
        "doc_to_visual": "image",
        "doc_to_text": "What is it?",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": 2},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / "pictures.yaml").write_text(json.dumps(task))
    return folder


def test_a_corrupt_image_in_the_data_costs_one_sample(tiny: Tiny, tmp_path: Path) -> None:
    folder = write_pictures_task(tmp_path, 30, corrupt={4})
    config = EvaluationConfig("idefics3", ("pictures",), {"pretrained": str(tiny("idefics3"))}, include_paths=(folder,))
    (score,) = evaluate(config, tmp_path / "run", Recorder()).tasks
    assert (score.samples_asked, score.samples_scored, score.samples_errored) == (30, 29, 1)
    (failed,) = [line for line in read_sound_lines(tmp_path / "run" / SAMPLES)[1] if line["outcome"] != "ok"]
    assert (failed["doc_id"], failed["outcome"]) == (4, "model_error")
    assert "truncated" in failed["error"]


def test_mostly_corrupt_data_fail_the_evaluation(tiny: Tiny, tmp_path: Path) -> None:
    folder = write_pictures_task(tmp_path, 10, corrupt=set(range(5)))
    config = EvaluationConfig("idefics3", ("pictures",), {"pretrained": str(tiny("idefics3"))}, include_paths=(folder,))
    with pytest.raises(EvaluationError, match="of 10 samples failed") as caught:
        evaluate(config, tmp_path / "run", Recorder())
    assert caught.value.reason == "TOO_MANY_ERRORS"


def test_sampling_is_reproducible_with_a_seed(tiny: Tiny, tmp_path: Path) -> None:
    texts = []
    for run, seed in enumerate([1, 1, 2]):
        config = digits_config(tiny("idefics3"), limit=8, gen_kwargs={"temperature": 3.0}, seed=(0, 0, seed, 0))
        evaluate(config, tmp_path / str(run), Recorder())
        texts.append(texts_in(tmp_path / str(run)))
    assert texts[0] == texts[1] != texts[2]
    config = digits_config(tiny("idefics3"), limit=4, offset=4, gen_kwargs={"temperature": 3.0}, seed=(0, 0, 1, 0))
    evaluate(config, tmp_path / "rest", Recorder())
    rest = {doc_id: text for doc_id, text in texts[0].items() if doc_id >= 4}
    assert texts_in(tmp_path / "rest") == rest, "an answer does not depend on what else is asked"

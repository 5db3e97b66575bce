"""Every model family through a real server: images, several images, videos, audio and text, against plain loops."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lmms_eval_grpc.engine.models import registry
from tests.end_to_end.conftest import ServerProcess
from tests.support import by_hand
from tests.support.checkpoints import FAMILIES, save_checkpoint, small_args, wrap_thinker
from tests.support.media_tasks import FRAMES, MAX_NEW_TOKENS, SAMPLES, UNTIL, MediaTasks, lesson, write_media_tasks

TRAINED = {
    "huggingface_text": ("text", 320, 120, 5e-3),
    "qwen2_audio": ("audio", 128, 70, 4e-3),
    "qwen2_5_vl": ("video", 640, 200, 4e-3),
    "qwen3_vl": ("image", 640, 200, 4e-3),
    "smolvlm": ("image", 960, 200, 5e-3),
}
"""What families learn before they are asked: a kind of task, from so many samples in so many steps, and how fast."""
CHANCE = {"text": 0.1, "image": 0.1, "video": 0.1, "audio": 0.25}

KINDS = {"image": ("image", "images"), "video": ("video",), "audio": ("audio",)}
INDICES = {"internvl_hf": [1, 3, 6, 8]}
"""Frames that a family sees of ten, where they are not the first, the last and those between."""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> MediaTasks:
    return write_media_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory, tasks: MediaTasks) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("server"), "--include-path", str(tasks.folder)).start()
    yield started
    started.stop()


def make(family: str, folder: Path) -> tuple[Any, Any]:
    """The family's model and processor, trained if it is to be, after saving them in ``folder``."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, processor = FAMILIES[family]()
    if family in TRAINED:
        kind, count, steps, rate = TRAINED[family]
        lessons = [lesson(kind, number) for number in range(count)]
        by_hand.train(family, model, processor, lessons, steps=steps, rate=rate)
    save_checkpoint(model, processor, folder)
    if family == "qwen2_5_omni":
        wrap_thinker(folder)
    return model.eval(), processor


def kinds_of(family: str) -> list[str]:
    entry = registry.resolve(family)
    assert entry is not None
    return ["text", *(kind for modality in entry.modalities for kind in KINDS.get(modality, ()))]


def run(server: ServerProcess, family: str, checkpoint: Path, kinds: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The samples of one job by kind of task, in the order of the documents."""
    frames = {"max_num_frames": FRAMES} if "video" in kinds else {}
    arguments = {"pretrained": str(checkpoint), **small_args(family), **frames}
    with server.client() as client:
        submitted = client.evaluate(model=family, tasks=[f"see_{kind}" for kind in kinds], model_args=arguments)
        job = client.wait_for_job(submitted["job_id"], timeout=300)
        assert job["status"] == "completed", (job["error"], server.log())
        samples = list(client.iter_samples(submitted["job_id"]))
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        found[sample["task"].removeprefix("see_")].append(sample)
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_answers_through_the_service_as_a_plain_loop_does(
    family: str, shared_server: ServerProcess, tasks: MediaTasks, tmp_path: Path
) -> None:
    if family == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("SmolVLM's processor needs num2words")
    model, processor = make(family, tmp_path / "checkpoint")
    kinds = kinds_of(family)
    served = run(shared_server, family, tmp_path / "checkpoint", kinds)
    for kind in kinds:
        samples = tasks.samples(kind, INDICES.get(family, [0, 3, 6, 9]))
        texts = [by_hand.answer(family, model, processor, sample, MAX_NEW_TOKENS) for sample in samples]
        expected = [text.split(UNTIL)[0] for text in texts]
        assert [sample["error"] for sample in served[kind]] == [None] * SAMPLES
        assert [sample["responses"] for sample in served[kind]] == [[text] for text in expected], kind
        right = [text == sample.answer for text, sample in zip(expected, samples, strict=True)]
        assert [sample["scores"]["exact_match"] for sample in served[kind]] == list(map(float, right)), kind
        if family in TRAINED and kind == TRAINED[family][0]:
            assert sum(right) / SAMPLES >= 3 * CHANCE[kind]

"""Small tasks over real files, one for each kind of media, and what a hand-written loop needs to do the same."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import datasets
import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image
from sklearn.datasets import load_digits

from tests.support.by_hand import Clip, Sample, read_clip
from tests.support.media_files import sine
from tests.support.task_files import write_yaml

SAMPLES = 12
"""Documents of each task."""
FRAMES = 4
"""To be chosen of each video."""
VIDEO_FRAMES, VIDEO_FPS, VIDEO_SIDE = 10, 5, 64
RATE = 16000
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TONES = ("A", "B", "C", "D")
_FIRST_HELD_OUT = 1600
"""Rows of ``load_digits`` from here on are for tests, those before for training."""

_TASK = """
    task: {name}
    dataset_path: parquet
    dataset_kwargs: {{data_files: {{test: {name}.parquet}}}}
    test_split: test
    output_type: generate_until
    doc_to_text: question
    doc_to_target: answer
    doc_to_visual: !function visuals.{function}
    generation_kwargs: {{max_new_tokens: {tokens}, do_sample: false, until: ["\\n\\n"]}}
    metric_list:
      - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
    """

_VISUALS = """
def nothing(doc):
    return []


def images(doc):
    return doc["images"]


def video(doc):
    return [doc["video"]]


def audio(doc):
    return [doc["audio"]]
"""

MAX_NEW_TOKENS = 3
UNTIL = "\n\n"
"""Where answers end, beside the models' own ends."""


@cache
def _digits() -> Any:
    return load_digits()


def digit(row: int, side: int = 8) -> Image.Image:
    """One of scikit-learn's digits, in RGB."""
    pixels = (_digits().images[row] * (255 / 16)).astype(np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).convert("RGB")


def label(row: int) -> str:
    return str(_digits().target[row])


def tone(number: int, seed: int) -> npt.NDArray[np.float32]:
    """Four tenths of a second of one of four tones, of some loudness, with noise."""
    random = np.random.default_rng(seed)
    samples = sine(300.0 * 2**number, 0.4, RATE, 0.3 + 0.4 * random.random())
    return samples + random.normal(0, 0.01, len(samples)).astype(np.float32)


def lesson(kind: str, number: int) -> Sample:
    """A sample to learn from: of the same kind as a task's documents, but none of them."""
    if kind == "text":
        return Sample(f"Write {_WORDS[number % 10]} as a digit.", str(number % 10))
    if kind == "audio":
        return Sample("Which tone?", _TONES[number % 4], sounds=(tone(number % 4, number),))
    assert number < _FIRST_HELD_OUT
    if kind == "image":
        return Sample("Which digit?", label(number), images=(digit(number),))
    frames = np.stack([np.asarray(digit(number, VIDEO_SIDE))] * FRAMES)
    return Sample("Which digit?", label(number), videos=(Clip(frames, [0, 3, 6, 9], VIDEO_FRAMES, VIDEO_FPS),))


@dataclass(frozen=True)
class MediaTasks:
    """The tasks in a folder, by kind: text, image, images, video, audio."""

    folder: Path

    def documents(self, kind: str) -> Sequence[dict[str, Any]]:
        return list(datasets.Dataset.from_parquet(str(self.folder / f"see_{kind}.parquet")))

    def samples(self, kind: str, indices: Sequence[int]) -> list[Sample]:
        """The documents of a task, read plainly; ``indices`` of the frames to take of each video."""
        return [
            Sample(
                document["question"],
                document["answer"],
                images=tuple(image.convert("RGB") for image in document.get("images", ())),
                videos=(read_clip(Path(document["video"]), indices),) if "video" in document else (),
                sounds=(soundfile.read(document["audio"], dtype="float32")[0],) if "audio" in document else (),
            )
            for document in self.documents(kind)
        ]


def write_media_tasks(folder: Path) -> MediaTasks:
    """Task files ``see_text``, ``see_image``, … with their data: PNG in parquet, mp4 and wav beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "visuals.py").write_text(_VISUALS)
    writers: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
        "text": ("nothing", _text_document),
        "image": ("images", lambda row: _image_document(row, 1)),
        "images": ("images", lambda row: _image_document(row, 2)),
        "video": ("video", lambda row: _video_document(folder, row)),
        "audio": ("audio", lambda row: _audio_document(folder, row)),
    }
    for kind, (function, make) in writers.items():
        documents = [make(_FIRST_HELD_OUT + number) for number in range(SAMPLES)]
        features = datasets.Features({"question": datasets.Value("string"), "answer": datasets.Value("string")})
        for column in documents[0].keys() - features.keys():
            features[column] = datasets.List(datasets.Image()) if column == "images" else datasets.Value("string")
        datasets.Dataset.from_list(documents, features=features).to_parquet(folder / f"see_{kind}.parquet")
        text = _TASK.format(name=f"see_{kind}", function=function, tokens=MAX_NEW_TOKENS)
        write_yaml(folder, f"see_{kind}.yaml", text)
    return MediaTasks(folder)


def _text_document(row: int) -> dict[str, Any]:
    sample = lesson("text", row)
    return {"question": sample.question, "answer": sample.answer}


def _image_document(row: int, count: int) -> dict[str, Any]:
    rows = [row + 20 * place for place in range(count)]
    images = []
    for one in rows:
        digit(one).save(buffer := io.BytesIO(), "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    question = "Which digit?" if count == 1 else "Which digits?"
    return {"question": question, "answer": "".join(map(label, rows)), "images": images}


def _video_document(folder: Path, row: int) -> dict[str, Any]:
    file = folder / f"digit_{row}.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=VIDEO_FPS)
        stream.width = stream.height = VIDEO_SIDE
        stream.pix_fmt = "yuv420p"
        for number in range(VIDEO_FRAMES):
            frame = av.VideoFrame.from_image(digit(row, VIDEO_SIDE))
            frame.pts, frame.time_base = number, Fraction(1, VIDEO_FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return {"question": "Which digit?", "answer": label(row), "video": str(file)}


def _audio_document(folder: Path, row: int) -> dict[str, Any]:
    file = folder / f"tone_{row}.wav"
    soundfile.write(file, tone(row % 4, row), RATE, subtype="FLOAT")
    return {"question": "Which tone?", "answer": _TONES[row % 4], "audio": str(file)}

"""Shipped benchmarks over documents made here, with the columns and types of the real data sets."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy
import soundfile

import lmms_eval_grpc.benchmarks
from lmms_eval_grpc.engine.scoring.aggregate import ScoredSample, aggregate_task
from lmms_eval_grpc.engine.scoring.process import score_sample
from lmms_eval_grpc.engine.tasks.messages import prompt_text
from lmms_eval_grpc.engine.tasks.task import Task
from lmms_eval_grpc.engine.tasks.yaml_loader import YamlReader
from tests.support.task_files import image, load, write_yaml

SHIPPED = Path(lmms_eval_grpc.benchmarks.__path__[0])

Document = dict[str, Any]

TEXT, NUMBER, DECIMAL = datasets.Value("string"), datasets.Value("int64"), datasets.Value("float64")
IMAGE, TEXTS = datasets.Image(), datasets.List(TEXT)


def columns(**others: Any) -> datasets.Features:
    return datasets.Features(others)


FEATURES: Mapping[str, datasets.Features] = {
    "mme": columns(question_id=TEXT, image=IMAGE, question=TEXT, answer=TEXT, category=TEXT),
    "mmmu_val": columns(
        id=TEXT,
        question=TEXT,
        options=TEXT,
        explanation=TEXT,
        **{f"image_{number}": IMAGE for number in range(1, 8)},
        img_type=TEXT,
        answer=TEXT,
        topic_difficulty=TEXT,
        question_type=TEXT,
        subfield=TEXT,
    ),
    "mmbench_en_dev": columns(
        index=NUMBER,
        question=TEXT,
        hint=TEXT,
        answer=TEXT,
        **dict.fromkeys("ABCD", TEXT),
        category=TEXT,
        image=IMAGE,
        source=TEXT,
        **{"L2-category": TEXT},
        comment=TEXT,
        split=TEXT,
    ),
    "mmstar": columns(
        index=NUMBER,
        question=TEXT,
        image=IMAGE,
        answer=TEXT,
        category=TEXT,
        l2_category=TEXT,
        meta_info={"source": TEXT, "split": TEXT, "image_path": TEXT},
    ),
    "ai2d": columns(question=TEXT, options=TEXTS, answer=TEXT, image=IMAGE),
    "chartqa": columns(type=TEXT, question=TEXT, answer=TEXT, image=IMAGE),
    "docvqa_val": columns(
        questionId=TEXT,
        question=TEXT,
        question_types=TEXTS,
        image=IMAGE,
        docId=NUMBER,
        ucsf_document_id=TEXT,
        ucsf_document_page_no=TEXT,
        answers=TEXTS,
        data_split=TEXT,
    ),
    "infovqa_val": columns(
        questionId=TEXT,
        question=TEXT,
        answers=TEXTS,
        answer_type=TEXTS,
        image=IMAGE,
        image_url=TEXT,
        ocr=TEXT,
        data_split=TEXT,
    ),
    "textvqa_val": columns(
        image_id=TEXT,
        question_id=NUMBER,
        question=TEXT,
        question_tokens=TEXTS,
        image=IMAGE,
        image_width=NUMBER,
        image_height=NUMBER,
        answers=TEXTS,
        image_classes=TEXTS,
        set_name=TEXT,
        ocr_tokens=TEXTS,
    ),
    "ocrbench": columns(dataset=TEXT, question=TEXT, question_type=TEXT, answer=TEXTS, image=IMAGE),
    "pope": columns(
        id=TEXT, question_id=TEXT, question=TEXT, answer=TEXT, image_source=TEXT, image=IMAGE, category=TEXT
    ),
    "realworldqa": columns(image=IMAGE, image_path=TEXT, question=TEXT, answer=TEXT),
    "scienceqa_img": columns(
        image=IMAGE,
        question=TEXT,
        choices=TEXTS,
        answer=NUMBER,
        hint=TEXT,
        task=TEXT,
        grade=TEXT,
        subject=TEXT,
        topic=TEXT,
        category=TEXT,
        skill=TEXT,
        lecture=TEXT,
        solution=TEXT,
    ),
    "seedbench": columns(
        answer=TEXT,
        choice_a=TEXT,
        choice_b=TEXT,
        choice_c=TEXT,
        choice_d=TEXT,
        data_id=TEXT,
        data_type=TEXT,
        question=TEXT,
        question_id=TEXT,
        question_type_id=NUMBER,
        image=datasets.List(IMAGE),
        segment=datasets.List(NUMBER),
    ),
    "hallusion_bench_image": columns(
        category=TEXT,
        subcategory=TEXT,
        visual_input=TEXT,
        set_id=TEXT,
        figure_id=TEXT,
        sample_note=TEXT,
        question_id=TEXT,
        question=TEXT,
        gt_answer_details=TEXT,
        gt_answer=TEXT,
        filename=TEXT,
        image=IMAGE,
    ),
    "mathvista_testmini": columns(
        pid=TEXT,
        question=TEXT,
        image=TEXT,
        decoded_image=IMAGE,
        choices=TEXTS,
        unit=TEXT,
        precision=DECIMAL,
        answer=TEXT,
        question_type=TEXT,
        answer_type=TEXT,
        metadata={
            **dict.fromkeys(("category", "context", "grade", "language", "source", "split", "task"), TEXT),
            **dict.fromkeys(("img_height", "img_width"), NUMBER),
            "skills": TEXTS,
        },
        query=TEXT,
    ),
    "videomme": columns(
        video_id=TEXT,
        duration=TEXT,
        domain=TEXT,
        sub_category=TEXT,
        url=TEXT,
        videoID=TEXT,
        question_id=TEXT,
        task_type=TEXT,
        question=TEXT,
        options=TEXTS,
        answer=TEXT,
    ),
    "mvbench": columns(video=TEXT, question=TEXT, candidates=TEXTS, answer=TEXT),
    "librispeech": columns(index=NUMBER, audio=datasets.Audio(sampling_rate=16000), source=TEXT, gt=TEXT, task=TEXT),
}


def document(family: str, **values: Any) -> Document:
    """A document of ``family``: these values, a small picture in every image column, None elsewhere."""
    features = FEATURES[family]
    unknown = values.keys() - features.keys()
    assert not unknown, f"{family} has no column {unknown}"
    picture = {"image", "decoded_image"} & {name for name, kind in features.items() if kind == IMAGE}
    return {name: values.get(name, image(100) if name in picture else None) for name in features}


def load_benchmark(
    folder: Path, name: str, documents: Sequence[Document], *, family: str | None = None, **settings: Any
) -> Task:
    """The shipped task ``name`` over ``documents``, in a file of its own that includes ours."""
    (shipped,) = SHIPPED.rglob(f"{name}.yaml")
    split = YamlReader().read(shipped)["test_split"]
    features = FEATURES[family or name]
    folder.mkdir(parents=True, exist_ok=True)
    make_dataset(documents, features).to_parquet(folder / "documents.parquet")
    write_yaml(
        folder,
        "made.yaml",
        f"""
        include: {shipped}
        task: made_{name}
        tag: made
        dataset_path: parquet
        dataset_name: null
        dataset_kwargs: {{data_files: {{{split}: documents.parquet}}}}
        """,
    )
    return load(folder, f"made_{name}", **settings)


def make_dataset(documents: Sequence[Document], features: datasets.Features) -> datasets.Dataset:
    # Encoding audio wants torchcodec, even of bytes that are encoded already; a cast does not.
    recording = {"bytes": datasets.Value("binary"), "path": TEXT}
    plain = {name: recording if isinstance(kind, datasets.Audio) else kind for name, kind in features.items()}
    made = datasets.Dataset.from_list(list(documents), features=datasets.Features(plain))
    for name, kind in features.items():
        if isinstance(kind, datasets.Audio):
            made = made.cast_column(name, kind)
    return made


def question(task: Task, doc_id: int = 0) -> str:
    """The text that the model gets for a document."""
    return prompt_text(task.build_request(doc_id).messages)


def scores(task: Task, answers: Sequence[str]) -> list[dict[str, Any]]:
    """What the task's only pipeline gives each document's answer, by metric."""
    assert len(answers) == task.total_documents
    return [score_sample(task, doc_id, [answer])[0].scores for doc_id, answer in enumerate(answers)]


def points(task: Task, answers: Sequence[str], metric: str) -> list[float]:
    """The number that each answer scores; for scores that are mappings, the one under ``score``."""
    values = [score[metric] for score in scores(task, answers)]
    return [float(value["score"]) if isinstance(value, Mapping) else float(value) for value in values]


def totals(task: Task, answers: Sequence[str]) -> dict[str, float]:
    """The task's metrics over all its documents."""
    samples = [ScoredSample(doc_id, score_sample(task, doc_id, [answer])) for doc_id, answer in enumerate(answers)]
    result = aggregate_task(task, samples, asked=len(samples), errored=0, seconds=1.0)
    return {metric.name: metric.value for metric in result.metrics}


def silence() -> dict[str, Any]:
    """A tenth of a second of it, as a WAV file in an audio column."""
    stream = io.BytesIO()
    soundfile.write(stream, numpy.zeros(1600, dtype="float32"), 16000, format="WAV")
    return {"bytes": stream.getvalue(), "path": "silence.wav"}

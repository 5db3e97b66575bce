"""Documents of the real data sets' columns, for many of lmms-eval's tasks, with answers that the reader can find."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets

from tests.engine.benchmarks.made import FEATURES, IMAGE, NUMBER, TEXT, TEXTS, Document, columns, make_dataset
from tests.support.parity import letters, words
from tests.support.parity.store import write_splits

Make = Callable[[random.Random, Path], Iterator[Document]]


@dataclass(frozen=True, slots=True)
class Source:
    """A split of a data set of the hub, and how to make it."""

    path: str
    name: str | None
    split: str
    features: datasets.Features
    make: Make


@dataclass(frozen=True, slots=True)
class ParityTask:
    """What to ask for by name, and the data that it takes."""

    name: str
    kind: str
    sources: tuple[Source, ...]
    shipped: bool = False
    """Whether this package has a task of that name too."""


def write_all(root: Path) -> None:
    """Makes all data below ``root``, and the films where tasks look for them when HF_HOME is ``root / "home"``."""
    for source in (source for task in TASKS for source in task.sources):
        generator = random.Random(f"{source.path} {source.name} {source.split}")
        made = make_dataset(list(source.make(generator, root / "home")), source.features)
        write_splits(root, source.path, source.name, {source.split: made})


def _shipped(name: str, kind: str, path: str, split: str, make: Make, *, config: str | None = None) -> ParityTask:
    family = name.removesuffix("_static").removesuffix("_test_clean")
    return ParityTask(name, kind, (Source(path, config, split, FEATURES[family], make),), shipped=True)


_SPEECH = "librispeech_test_clean"
_FILM_PAIRS = columns(
    **dict.fromkeys(("video_id", "video_path", "question", "answer", "source"), TEXT), candidates=TEXTS
)
_PARTS_OF_MVP = (
    "human_object_interactions", "robot_object_interactions", "intuitive_physics", "temporal_reasoning",
)  # fmt: skip
_PARTS_OF_JMMMU = (
    *("Accounting", "Agriculture", "Architecture_and_Engineering", "Basic_Medical_Science", "Biology", "Chemistry"),
    *("Clinical_Medicine", "Computer_Science", "Design", "Diagnostics_and_Laboratory_Medicine", "Economics"),
    *("Electronics", "Energy_and_Power", "Finance", "Japanese_Art", "Japanese_Heritage", "Japanese_History", "Manage"),
    *("Marketing", "Materials", "Math", "Mechanical_Engineering", "Music", "Pharmacy", "Physics", "Psychology"),
    *("Public_Health", "World_History"),
)
_PEOPLE = datasets.List({"answer": TEXT, "answer_confidence": TEXT, "answer_id": NUMBER})

TASKS: tuple[ParityTask, ...] = (
    _shipped("mme", "paired questions, sums over categories", "lmms-lab-encoder/MME", "test", words.mme),
    _shipped(
        "mmmu_val", "letters and open answers, several images", "lmms-lab-encoder/MMMU", "validation", letters.mmmu
    ),
    _shipped(
        "mmbench_en_dev_static",
        "letters by rules, rotations",
        "lmms-lab-encoder/MMBench",
        "dev",
        letters.mmbench,
        config="en",
    ),
    _shipped("mmstar", "letters, macro averages", "Lin-Chen/MMStar", "val", letters.mmstar),
    _shipped("ai2d", "letters by a filter, exact match", "lmms-lab-encoder/ai2d", "test", letters.ai2d),
    _shipped("chartqa", "relaxed accuracy", "lmms-lab-encoder/ChartQA", "test", words.chartqa),
    _shipped(
        "docvqa_val",
        "ANLS",
        "lmms-lab-encoder/DocVQA",
        "validation",
        words.read("docvqa_val", "answers"),
        config="DocVQA",
    ),
    _shipped(
        "infovqa_val",
        "ANLS",
        "lmms-lab-encoder/DocVQA",
        "validation",
        words.read("infovqa_val", "answers"),
        config="InfographicVQA",
    ),
    _shipped("textvqa_val", "agreement with ten people", "lmms-lab-encoder/textvqa", "validation", words.textvqa),
    _shipped("ocrbench", "list answers", "echo840/OCRBench", "test", words.ocrbench),
    _shipped("pope", "yes or no, F1", "lmms-lab-encoder/POPE", "test", words.pope),
    _shipped("realworldqa", "letters, words and numbers", "lmms-lab-encoder/RealWorldQA", "test", letters.realworldqa),
    _shipped(
        "scienceqa_img", "letters", "lmms-lab-encoder/ScienceQA", "test", letters.scienceqa, config="ScienceQA-IMG"
    ),
    _shipped("seedbench", "letters, images and films", "lmms-lab-encoder/SEED-Bench", "test", letters.seedbench),
    _shipped("videomme", "films, clusters", "lmms-eval/Video-MME", "test", letters.videomme),
    _shipped(_SPEECH, "word error rate", "lmms-lab-audio/librispeech", _SPEECH, words.librispeech, config=_SPEECH),
    ParityTask(
        "aime24_nofigures_agg8",
        "eight responses: coverage and majority",
        (
            Source(
                "simplescaling/aime24_nofigures",
                "default",
                "train",
                columns(problem=TEXT, solution=TEXT, answer=TEXT, id=NUMBER),
                words.aime,
            ),
        ),
    ),
    ParityTask(
        "gsm8k_cot_self_consistency",
        "64 responses: majority votes in three pipelines",
        (Source("gsm8k", "main", "test", columns(question=TEXT, answer=TEXT), words.gsm8k),),
    ),
    ParityTask(
        "vqav2_val",
        "agreement with ten people, answers as mappings",
        (
            Source(
                "lmms-lab-encoder/VQAv2",
                None,
                "validation",
                columns(
                    **dict.fromkeys(("question_type", "multiple_choice_answer", "answer_type", "question"), TEXT),
                    **dict.fromkeys(("image_id", "question_id"), NUMBER),
                    answers=_PEOPLE,
                    image=IMAGE,
                ),
                words.vqav2,
            ),
        ),
    ),
    ParityTask(
        "screenspot_rec_test",
        "boxes: overlap",
        (
            Source(
                "rootsautomation/ScreenSpot",
                None,
                "test",
                columns(
                    **dict.fromkeys(("file_name", "instruction", "data_type", "data_source"), TEXT),
                    bbox=datasets.List(datasets.Value("float64")),
                    image=IMAGE,
                ),
                words.screenspot,
            ),
        ),
    ),
    ParityTask(
        "mvp_mini",
        "a group of four tasks, each weighing the same; pairs of films",
        tuple(Source("facebook/minimal_video_pairs", part, "mini", _FILM_PAIRS, letters.mvp) for part in _PARTS_OF_MVP),
    ),
    ParityTask(
        "jmmmu",
        "groups of tags in a group, weighted by size; letters",
        tuple(
            Source("JMMMU/JMMMU", part, "test", FEATURES["mmmu_val"], letters.jmmmu(part)) for part in _PARTS_OF_JMMMU
        ),
    ),
)

BY_NAME: Mapping[str, ParityTask] = {task.name: task for task in TASKS}

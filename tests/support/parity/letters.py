"""Makers of documents whose questions are answered by letters, mostly."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.engine.benchmarks.made import Document, document
from tests.support.parity.media import THINGS, film, picture


def _four(generator: random.Random) -> tuple[list[str], int]:
    """Four different things, and the place of the right one."""
    return generator.sample(THINGS, 4), generator.randrange(4)


def _letters(right: int, count: int = 4) -> list[str]:
    """The right letter, then the others."""
    letters = "ABCDEFGH"[:count]
    return [letters[right], *letters.replace(letters[right], "")]


_GASES = ["oxygen", "nitrogen", "argon", "carbon dioxide", "helium"]


def _bracketed(right: int) -> list[str]:
    """As :func:`_letters`, in brackets: lmms-eval's mmmu and jmmmu guess at random where they see no clear letter."""
    return [f"({letter})" for letter in _letters(right)]


def mmmu(generator: random.Random, _: Path) -> Iterator[Document]:
    subjects = ["Art", "Physics", "Finance", "Clinical_Medicine", "Design", "Electronics"]
    for number in range(18):
        options, right = _four(generator)
        open_question = number % 6 == 5
        answers = generator.sample(_GASES, 3) if open_question else _bracketed(right)
        seen = picture(*answers)
        two = number % 4 == 1
        yield document(
            "mmmu_val",
            id=f"validation_{subjects[number % 6]}_{number}",
            question=("Compare <image 1> and <image 2>." if two else "What is shown in <image 1>?"),
            options="[]" if open_question else str(options),
            question_type="open" if open_question else "multiple-choice",
            answer=answers[0].strip("()"),
            subfield=subjects[number % 6],
            topic_difficulty="Easy",
            img_type="['Photographs']",
            explanation="",
            image_1=seen,
            image_2=picture(*answers, answers[0]) if two else None,
        )


def mmbench(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(12):
        options, right = _four(generator)
        turns = (0, 1) if number % 3 == 0 else (0,)
        for turn in turns:
            turned = options[turn:] + options[:turn]
            place = turned.index(options[right])
            yield document(
                "mmbench_en_dev",
                **{
                    "index": number + 1 + 1_000_000 * turn,
                    "image": picture(*_letters(place), turned[place]),
                    "question": f"What stands on the table in scene {number}?",
                    "hint": "nan" if number % 2 else "Look at the middle.",
                    "answer": "ABCD"[place],
                    **dict(zip("ABCD", turned, strict=True)),
                    "category": "object_localization",
                    "source": "made",
                    "L2-category": "finegrained_perception",
                    "comment": "nan",
                    "split": "dev",
                },
            )


_MMSTAR = {
    "coarse perception": ("image scene and topic", "image emotion"),
    "fine-grained perception": ("object counting", "recognition"),
    "instance reasoning": ("single-instance reasoning", "cross-instance relation reasoning"),
    "logical reasoning": ("diagram reasoning", "common reasoning"),
    "science & technology": ("biology & chemistry & physics",),
    "math": ("geometry", "statistical reasoning"),
}


def mmstar(generator: random.Random, _: Path) -> Iterator[Document]:
    places = [(category, below) for category, all_below in _MMSTAR.items() for below in all_below]
    for number in range(3 * len(places)):
        category, below = places[number % len(places)]
        options, right = _four(generator)
        listed = ", ".join(f"{letter}: {option}" for letter, option in zip("ABCD", options, strict=True))
        yield document(
            "mmstar",
            index=number,
            question=f"Which is it in picture {number}?\nOptions: {listed}",
            image=picture(*_letters(right)),
            answer="ABCD"[right],
            category=category,
            l2_category=below,
            meta_info={"source": "made", "split": "val", "image_path": f"images/{number}.jpg"},
        )


def ai2d(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(16):
        options, right = _four(generator)
        yield document(
            "ai2d",
            question=f"What does arrow {number} show?",
            options=options,
            answer=str(right),
            image=picture(*_letters(right), f"{'ABCD'[right]}. {options[right]}"),
        )


def realworldqa(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(15):
        options, right = _four(generator)
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
        count = str(generator.randrange(2, 9))
        instruction = "Please answer directly with a single word or number."
        kinds = (
            (f"{listed}\nPlease answer directly with only the letter of the correct option and nothing else.", None),
            (instruction, [count, str(int(count) + 1), "many"]),
            (instruction, ["Yes", "No"]),
        )
        text, answers = kinds[number % 3]
        answers = answers or _letters(right)
        yield document(
            "realworldqa",
            question=f"What is on the road in frame {number}?\n{text}",
            answer=answers[0],
            image_path=f"{number}.webp",
            image=picture(*answers),
        )


def scienceqa(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(14):
        options, right = _four(generator)
        yield document(
            "scienceqa_img",
            image=picture(*_letters(right), f"{'ABCD'[right]}. {options[right]}"),
            question=f"Which of these is found in sample {number}?",
            choices=options,
            answer=right,
            hint="It is green." if number % 2 else "",
        )


def seedbench(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(16):
        options, right = _four(generator)
        seen = picture(*_letters(right))
        yield document(
            "seedbench",
            answer="ABCD"[right],
            **{f"choice_{letter}": option for letter, option in zip("abcd", options, strict=True)},
            data_id=str(number),
            data_type="video" if number % 4 == 3 else "image",
            question=f"What happens in part {number}?",
            question_id=str(number),
            question_type_id=1 + number % 3,
            image=[seen, seen] if number % 4 == 3 else [seen],
            segment=[],
        )


def videomme(generator: random.Random, home: Path) -> Iterator[Document]:
    for number in range(6):
        right = [generator.randrange(4) for _ in range(2)]
        video = f"video{number}"
        film(home / "videomme" / "data" / f"{video}.mp4", *_letters(right[0]), video)
        for question, place in enumerate(right):
            yield document(
                "videomme",
                video_id=f"{number:03}",
                videoID=video,
                duration=["short", "medium", "long"][number % 3],
                domain=["Knowledge", "Life Record"][number % 2],
                sub_category=["Astronomy", "Daily Life"][number % 2],
                url="https://www.youtube.com/watch?v=made",
                question_id=f"{number:03}-{question + 1}",
                task_type=["Counting Problem", "Action Reasoning"][question],
                question=f"What is counted at minute {question}?",
                options=["A. Stars.", "B. Moons.", "C. Rings.", "D. Spots."],
                answer="ABCD"[place],
            )


def jmmmu(subject: str) -> Callable[[random.Random, Path], Iterator[Document]]:
    def make(generator: random.Random, _: Path) -> Iterator[Document]:
        for number in range(generator.randrange(1, 5)):
            options, right = _four(generator)
            yield document(
                "mmmu_val",
                id=f"test_{subject}_{number}",
                question=f"<image 1> {subject}の図{number}には何がありますか。",
                options=str(options),
                question_type="multiple-choice",
                answer="ABCD"[right],
                image_1=picture(*_bracketed(right)),
            )

    return make


def mvp(generator: random.Random, home: Path) -> Iterator[Document]:
    for number in range(generator.randrange(3, 6)):
        asked = f"Which happens first in scene {number}?"
        candidates = generator.sample(THINGS, 2)
        for place in (0, 1):
            video = f"{asked[-3]}{generator.randrange(10**9)}.mp4"
            film(home / "mvp_mini" / "clevrer" / video, *_letters(place, 2), video)
            yield {
                "video_id": f"{number}_{place}",
                "video_path": f"/clevrer/{video}",
                "question": asked,
                "candidates": candidates,
                "answer": candidates[place],
                "source": "clevrer",
            }

"""Makers of documents whose questions are answered by words, numbers, places or speech."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.engine.benchmarks.made import Document, document
from tests.support.parity.media import THINGS, picture, recording

_ODD_WORDS = ["CENTRE", "Hotel Astoria", "J. Smith", "12 March 1987", "St. Mary's", "EXIT", "Café", "No. 42", "Dr. Wu"]
YES_NO = ("Yes", "No")


def mme(generator: random.Random, _: Path) -> Iterator[Document]:
    for category in ("existence", "count", "OCR", "code_reasoning", "commonsense_reasoning"):
        for number in range(4):
            for right in YES_NO:
                yield document(
                    "mme",
                    question_id=f"{category}/{number}.png",
                    image=picture(right, *YES_NO, f"{category} {number}"),
                    question=f"Is there {generator.choice(THINGS)} in this image? Please answer yes or no.",
                    answer=right,
                    category=category,
                )


def chartqa(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(16):
        value = generator.randrange(10, 400)
        right = [str(value), f"{value / 10}", f"{value}%", "Yes"][number % 4]
        wrong = ["No"] if right == "Yes" else [str(value * 1.04), str(value + 50), f"{value * 2}%"]
        yield document(
            "chartqa",
            type="human_test" if number % 3 else "augmented_test",
            question=f"What is the value of bar {number}?",
            answer=right,
            image=picture(right, *wrong),
        )


def read(family: str, column: str) -> Callable[[random.Random, Path], Iterator[Document]]:
    """docvqa and infovqa: the words of a document, in one or more accepted forms."""

    def make(generator: random.Random, _: Path) -> Iterator[Document]:
        for number in range(14):
            right, wrong = generator.sample(_ODD_WORDS, 2)
            yield document(
                family,
                questionId=str(number),
                question=f"Who or what is named in line {number}?",
                image=picture(right, wrong, right[:-1] + "x"),
                data_split="val",
                **{column: [right, right.lower()] if number % 2 else [right]},
            )

    return make


def textvqa(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(14):
        right, second, wrong = generator.sample(_ODD_WORDS, 3)
        agreeing = generator.randrange(2, 11)
        yield document(
            "textvqa_val",
            image_id=f"{number:x}",
            question_id=number,
            question=f"what does SIGN {number} say?",
            question_tokens=[],
            image=picture(right, second, wrong, "The two dogs"),
            answers=[right] * agreeing + [second] * (10 - agreeing),
            ocr_tokens=[right],
            image_classes=["sign"],
            set_name="val",
        )


def ocrbench(generator: random.Random, _: Path) -> Iterator[Document]:
    kinds = ["Regular Text Recognition", "Scene Text-centric VQA", "Key Information Extraction"]
    for number in range(15):
        right, wrong = generator.sample(_ODD_WORDS, 2)
        formula = number % 5 == 4
        yield document(
            "ocrbench",
            dataset="HME100k" if formula else "IIIT5K",
            question=f"what is written in place {number}?",
            question_type="Handwritten Mathematical Expression Recognition" if formula else kinds[number % 3],
            answer=["x ^ 2 + 1"] if formula else [right, right.title()],
            image=picture("x^2+1" if formula else right, "x^2" if formula else wrong),
        )


def pope(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(24):
        right = generator.choice(["yes", "no"])
        yield document(
            "pope",
            id=str(number),
            question_id=str(number),
            question=f"Is there {generator.choice(THINGS)} in image {number}?",
            answer=right,
            image_source=f"COCO_{number}",
            image=picture(right, "yes", "no"),
            category="random",
        )


_SPOKEN = "he hoped there would be stew for dinner turnips and carrots and bruised potatoes on mr brown's colour table"


def librispeech(generator: random.Random, _: Path) -> Iterator[Document]:
    words = _SPOKEN.split()
    for number in range(10):
        spoken = generator.choices(words, k=generator.randrange(5, 12))
        heard = " ".join([*spoken[:-1], "tables"])
        yield document(
            "librispeech",
            index=number,
            audio=recording(" ".join(spoken), heard),
            source="librispeech_test_clean",
            gt=" ".join(spoken).upper(),
            task="asr_en",
        )


def _marked(right: int) -> str:
    """The answers for a prompt without media."""
    return f"[[{right}|{right + 1}|{2 * right}]]"


def aime(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(6):
        right = generator.randrange(1, 900)
        yield {
            "problem": f"Find the remainder in problem {number}. {_marked(right)}",
            "solution": f"It is {right}.",
            "answer": f"{right:03}",
            "id": number,
        }


def gsm8k(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(8):
        right = generator.randrange(2, 2000)
        said = "|".join(f"so the answer is: The answer is {value}" for value in (right, right + 1, 2 * right))
        yield {
            "question": f"Shop {number} sells boxes. How many are left? [[{said}]]",
            "answer": f"They sold some.\n#### {right:,}",
        }


def vqav2(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(12):
        right, second = generator.sample([*YES_NO, "2", "a red apple", "on the left", "left"], 2)
        agreeing = generator.randrange(1, 11)
        given = [right] * agreeing + [second] * (10 - agreeing)
        yield {
            "question_type": "what is",
            "multiple_choice_answer": right,
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": person}
                for person, answer in enumerate(given, 1)
            ],
            "image_id": number,
            "answer_type": "other",
            "question_id": number,
            "question": f"What is in corner {number}?",
            "image": picture(right, second, f"the {second}"),
        }


def screenspot(generator: random.Random, _: Path) -> Iterator[Document]:
    for number in range(12):
        left, top = (round(generator.uniform(0.1, 0.5), 2) for _ in range(2))
        box = [left, top, round(left + 0.3, 2), round(top + 0.2, 2)]
        near = [round(value + 0.05, 2) for value in box]
        yield {
            "file_name": f"web_{number}.png",
            "bbox": box,
            "instruction": f"open menu {number}",
            "data_type": "text" if number % 2 else "icon",
            "data_source": ["windows", "ios"][number % 2],
            "image": picture(str(box), str(near), "(0.0, 0.0, 1.0, 1.0)", "the menu"),
        }

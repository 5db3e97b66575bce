"""Texts and numbers that answers contain, against lmms-eval's own functions."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmms_eval_grpc.benchmarks._shared import choices, groups, vqa_text
from lmms_eval_grpc.benchmarks._shared import documents as shared
from lmms_eval_grpc.benchmarks.chartqa import utils as chartqa
from lmms_eval_grpc.benchmarks.mathvista import judge_prompt, prompts
from lmms_eval_grpc.benchmarks.mathvista import utils as mathvista
from lmms_eval_grpc.benchmarks.mmmu import answers as mmmu_answers
from lmms_eval_grpc.benchmarks.mmmu import utils as mmmu
from lmms_eval_grpc.benchmarks.ocrbench import utils as ocrbench
from lmms_eval_grpc.benchmarks.textvqa import utils as textvqa
from tests.engine.benchmarks.random_answers import random_answers
from tests.engine.benchmarks.reference import COUNT, OPTIONS, Reference, kwargs_of, reference
from tests.support.lmms_eval_files import require_lmms_eval
from tests.support.task_files import image

__all__ = ["reference"]

require_lmms_eval()


@pytest.mark.parametrize("letters", ["ABCD", "ABCDE", "AB"])
def test_letters_are_read_as_lmms_evals_shared_extraction_reads_them(reference: Reference, letters: str) -> None:
    theirs = reference("_task_utils.mcq_extract")
    for answer in random_answers(1, 4 * COUNT, OPTIONS):
        assert choices.extract_letter(answer, letters) == theirs.extract_mcq_answer(answer, list(letters)), answer


def test_vqa_answers_are_normalised_equally(reference: Reference) -> None:
    processor = reference("_task_utils.vqa_eval_metric").EvalAIAnswerProcessor()
    assert {key: value for key, value in processor.CONTRACTIONS.items() if key == key.lower() and key != value} | {
        key: value for key, value in vqa_text.CONTRACTIONS.items() if key == value
    } == vqa_text.CONTRACTIONS
    words = [*processor.CONTRACTIONS, *processor.CONTRACTIONS.values(), *processor.NUMBER_MAP]
    for answer in [*words, *random_answers(2, 2 * COUNT, [*OPTIONS, *words])]:
        assert vqa_text.normalise_answer(answer) == processor(answer), answer


def mmmu_document(number: int, kind: str, answer: str, question: str = "What is <image 1>?") -> dict[str, Any]:
    return {
        "id": f"validation_{('Art', 'Art_Theory', 'Math')[number % 3]}_{number}",
        "question": question,
        "options": str(["a red apple", "<image 2>", "two dogs", "42"] if kind == "multiple-choice" else []),
        "question_type": kind,
        "answer": answer,
        **{f"image_{index}": image(index) for index in range(1, 8)},
    }


def test_mmmu_letters(reference: Reference) -> None:
    theirs = reference("mmmu.utils")
    options = dict(zip("ABCD", OPTIONS, strict=False))
    guesses = 0
    for answer in random_answers(19, 2 * COUNT, [*OPTIONS, *"ABCD"]):
        state = random.getstate()
        other = theirs.parse_multi_choice_response(answer, list(options), options)
        guessed = random.getstate() != state
        guesses += guessed
        # Where nothing is found theirs guesses at random, ours by the question and the answer.
        assert guessed or mmmu_answers.read_letter(answer, options, guess_by="1") == other, answer
    assert 0 < guesses < COUNT


def test_mmmu_open_answers(reference: Reference) -> None:
    theirs = reference("mmmu.utils")
    for answer in random_answers(20, 2 * COUNT, [*OPTIONS, "= 3.14159", "the answer is 1,200", "so x = 4e5"]):
        mine, other = mmmu_answers.read_open(answer), theirs.parse_open_response(answer)
        assert sorted(mine, key=repr) == sorted(other, key=repr), answer
        for right in ("42", "apple", "b", "3.14", "1200", "0.5", "two"):
            assert mmmu_answers.open_is_right(mine, right) == theirs.eval_open(right, other), (answer, right)


def test_mmmu_accuracy(reference: Reference) -> None:
    theirs, generator = reference("mmmu.utils"), random.Random(21)
    items: dict[str, list[Any]] = {"ours": [], "theirs": []}
    for number, answer in enumerate(random_answers(22, COUNT, [*OPTIONS, "(A)", "(B)", "C", "D."])):
        kind = generator.choice(["multiple-choice", "open"])
        one = mmmu_document(number, kind, generator.choice("ABCD") if kind == "multiple-choice" else "42")
        state = random.getstate()
        other = theirs.mmmu_process_results(one, [answer])["mmmu_acc"]
        if random.getstate() != state:
            continue  # theirs was a guess
        mine = mmmu.process_results(one, [answer])["mmmu_acc"]
        assert mine["subdomain"] == other["subdomain"]
        assert mine["score"] == theirs.evaluate_mmmu([other])[1]["acc"], answer
        items["ours"].append(mine)
        items["theirs"].append(other)
    assert len(items["ours"]) > COUNT / 2
    assert mmmu.accuracy(items["ours"]) == pytest.approx(theirs.mmmu_aggregate_results(items["theirs"]), abs=1e-9)


def test_mmmu_accuracy_of_several_answers(reference: Reference) -> None:
    theirs = reference("mmmu.utils")
    one = mmmu_document(1, "multiple-choice", "B")
    for answers in (["(A)", "(B)"], ["(A)", "(C)"], ["(B)", "(C)", "(D)"]):
        other = theirs.evaluate_mmmu([theirs.mmmu_process_results(one, answers)["mmmu_acc"]])[1]["acc"]
        assert mmmu.process_results(one, answers)["mmmu_acc"]["score"] == other


@pytest.mark.parametrize(
    "question",
    ["What is <image 1>?", "<image 1> and <image 2>\nCompare.", "Nothing to see.", "See <image 1><image 2> <image 3>."],
)
@pytest.mark.parametrize("kind", ["multiple-choice", "open"])
def test_mmmu_prompts(reference: Reference, question: str, kind: str) -> None:
    theirs = reference("mmmu.utils")
    one = mmmu_document(1, kind, "B", question)
    one["options"] = str(["red", "blue"])
    for kwargs in kwargs_of("mmmu_val"):
        theirs.config["metadata"]["interleaved_format"] = False
        assert mmmu.doc_to_text(one, kwargs) == theirs.mmmu_doc_to_text(one, kwargs)
        mine, other = mmmu.doc_to_messages(one, kwargs), theirs.mmmu_doc_to_messages(one, kwargs)
        assert plain(mine) == plain(other)
    assert plain_images(mmmu.doc_to_visual(one)) == plain_images(theirs.mmmu_doc_to_visual(one))


def plain(messages: list[dict[str, Any]]) -> list[Any]:
    """The content of messages, an image by its first pixel."""
    return [
        item["text"] if item["type"] == "text" else item["url"].getpixel((0, 0))
        for message in messages
        for item in message["content"]
    ]


def plain_images(images: list[Any]) -> list[Any]:
    return [one.getpixel((0, 0)) for one in images]


def test_chartqa(reference: Reference) -> None:
    theirs, generator = reference("chartqa.utils"), random.Random(23)
    numbers = ["42", "41", "40", "-7", "50%", "0.5", "0", "0.0", "nan", "inf", "1_000", "Yes", "no", "3.", "44.1"]
    for answer in [*numbers, *random_answers(24, COUNT, OPTIONS), *generator.choices(numbers, k=COUNT)]:
        one = {"type": generator.choice(["human_test", "augmented_test"]), "answer": generator.choice(numbers)}
        assert chartqa.process_results(one, [answer]) == theirs.chartqa_process_results(one, [answer]), (answer, one)
    for kwargs in kwargs_of("chartqa"):
        assert shared.question({"question": "Q"}, kwargs) == theirs.chartqa_doc_to_text({"question": "Q"}, kwargs)


@pytest.mark.parametrize("family", ["docvqa", "infovqa"])
def test_docvqa_and_infovqa_prompts(reference: Reference, family: str) -> None:
    theirs = getattr(reference(f"{family}.utils"), f"{family}_doc_to_text")
    for kwargs in kwargs_of(f"{family}_val"):
        assert shared.question({"question": " Q? "}, kwargs) == theirs({"question": " Q? "}, kwargs)


def test_anls_of_docvqa_and_infovqa(reference: Reference) -> None:
    from lmms_eval_grpc.engine.scoring.metrics import anls

    reference("docvqa.utils")
    theirs = importlib.import_module("lmms_eval.api.metrics").anls
    generator = random.Random(25)
    for answer in random_answers(26, COUNT, OPTIONS):
        accepted = generator.sample([*OPTIONS, "2 Dogs", "red  apple", "The Banana"], 3)
        other = theirs(references=accepted, predictions=[answer])
        assert anls(accepted, [answer]) == pytest.approx(other["anls"], abs=1e-9), answer


def test_textvqa(reference: Reference) -> None:
    theirs, generator = reference("textvqa.utils"), random.Random(27)
    for answer in random_answers(28, COUNT, [*OPTIONS, "2", "two"] * 3):
        accepted = generator.choices([*OPTIONS, "Two", "2", "the 42", answer or "x", "isnt"], k=10)
        mine = textvqa.process_results({"answers": accepted}, [answer])["exact_match"]
        other = theirs.textvqa_process_results({"answers": [*accepted], "question_id": 1}, [answer])["exact_match"]
        assert mine == pytest.approx(other, abs=1e-9), (answer, accepted)
    one = {"question": "what does the SIGN say?", "ocr_tokens": ["STOP", "x"]}
    for kwargs in [*kwargs_of("textvqa_val"), {"pre_prompt": "p ", "post_prompt": " q", "ocr": True}]:
        assert textvqa.doc_to_text(one, kwargs) == theirs.textvqa_doc_to_text(one, kwargs)


def test_ocrbench(reference: Reference, tmp_path: Path) -> None:
    theirs, generator = reference("ocrbench.utils"), random.Random(29)
    kinds = list(theirs.OCRBench_score)
    theirs.OCRBench_score.update(dict.fromkeys(kinds, 0))  # theirs go on counting from whatever ran in this process
    texts = [*OPTIONS, "ＡＢＣ　１", "abc 1", "x ^ 2", "x^2", "new\nline"]
    mine, other = [], []
    # A thousand, as the benchmark has: theirs divides by that whatever was run.
    for answer in random_answers(30, 1000, texts):
        accepted = generator.sample(texts, 2)
        one = {
            "question": " Q ",
            "answer": generator.choice([accepted, accepted[0]]),
            "dataset": generator.choice(["HME100k", "IIIT5K"]),
            "question_type": generator.choice(kinds),
        }
        mine.append(ocrbench.process_results(one, [answer])["ocrbench_accuracy"])
        other.append(theirs.ocrbench_process_results(one, [answer])["ocrbench_accuracy"])
    assert mine == other
    arguments = SimpleNamespace(output_path=str(tmp_path))
    assert groups.mean_score(mine) == pytest.approx(theirs.ocrbench_aggregate_accuracy(other, arguments), abs=1e-9)
    for kwargs in kwargs_of("ocrbench"):
        assert shared.stripped_question(one, kwargs) == theirs.ocrbench_doc_to_text(one, kwargs)


def mathvista_document(generator: random.Random) -> dict[str, Any]:
    kind = generator.choice(["text", "integer", "float1", "float2", "list"])
    multiple = kind == "text"
    return {
        "pid": "1",
        "question": "How many?",
        "query": "Hint\nHow many?",
        "unit": generator.choice(["", "cm", None]),
        "choices": ["a red apple", "two dogs", "42"] if multiple else None,
        "question_type": "multi_choice" if multiple else "free_form",
        "answer_type": kind.rstrip("12"),
        "precision": int(kind[-1]) if kind[-1] in "12" else 0,
        "answer": {"text": "two dogs", "integer": "42", "float1": "4.5", "float2": "4.50", "list": "[1, 2]"}[kind],
        "metadata": {"split": "testmini"},
    }


def test_mathvista_prompts(reference: Reference) -> None:
    theirs, generator = reference("mathvista.utils"), random.Random(31)
    for _ in range(200):
        one = mathvista_document(generator) | {"caption": "A cup.", "ocr": "[x]"}
        for style in prompts.SHOT_TYPES:
            for described in (False, True):
                kwargs = {"shot_type": style, "shot": 0, "use_caption": described, "use_ocr": described}
                assert prompts.doc_to_text(one, kwargs) == theirs.mathvista_doc_to_text(one, kwargs)


def test_mathvista_with_a_judge(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, generator = reference("mathvista.utils"), random.Random(32)
    asked: dict[str, set[str]] = {"ours": set(), "theirs": set()}

    def reply(side: str) -> Callable[..., str]:
        def answer(prompt: str, **_: Any) -> str:
            asked[side].add(prompt)
            return random.Random(prompt).choice(["A", "(B)", "two dog", "42", "42.0", "4.49", "4.5", "[1, 2]", "none"])

        return answer

    monkeypatch.setattr(theirs.mathvista_evaluator, "get_chat_response", reply("theirs"))
    monkeypatch.setattr("lmms_eval_grpc.benchmarks._shared.judge.configured", lambda: True)
    monkeypatch.setattr("lmms_eval_grpc.benchmarks._shared.judge.ask", reply("ours"))
    mine, other = [], []
    for answer in random_answers(33, COUNT, ["two dogs", "42", "4.5", "[1, 2]"] * 5):
        one = mathvista_document(generator)
        mine.append(mathvista.process_results(one, [answer])["llm_as_judge_eval"])
        other.append(theirs.mathvista_process_results(one, [answer])["llm_as_judge_eval"])
        assert mine[-1]["score"] == other[-1]["true_false"], (answer, one)
    assert asked["ours"] == asked["theirs"]
    total = 100 * sum(one["true_false"] for one in other) / len(other)
    assert mathvista.accuracy(mine) == pytest.approx(round(total, 2), abs=1e-9)


def test_mathvista_extraction_prompt(reference: Reference) -> None:
    evaluator = reference("mathvista.mathvista_evals")
    other = evaluator.MathVistaEvaluator().create_test_prompt(evaluator.DEMO_PROMPT, "the query", "the {response}")
    assert judge_prompt.extraction_prompt("the query", "the {response}") == other

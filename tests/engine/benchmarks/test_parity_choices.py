"""Yes and no, and option letters, against lmms-eval's own functions.

Equal prompts, per-sample scores and aggregates on many random answers; where ours differs on purpose, the test says so
and docs/compatibility.md has the reason.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmms_eval_grpc.benchmarks._shared import documents as shared
from lmms_eval_grpc.benchmarks._shared import groups
from lmms_eval_grpc.benchmarks.ai2d import utils as ai2d
from lmms_eval_grpc.benchmarks.hallusion_bench import utils as hallusion
from lmms_eval_grpc.benchmarks.mmbench import utils as mmbench
from lmms_eval_grpc.benchmarks.mme import utils as mme
from lmms_eval_grpc.benchmarks.mmstar import utils as mmstar
from lmms_eval_grpc.benchmarks.pope import utils as pope
from lmms_eval_grpc.benchmarks.realworldqa import utils as realworldqa
from lmms_eval_grpc.benchmarks.scienceqa import utils as scienceqa
from lmms_eval_grpc.benchmarks.seedbench import utils as seedbench
from tests.engine.benchmarks.random_answers import random_answers
from tests.engine.benchmarks.reference import COUNT, OPTIONS, Reference, kwargs_of, reference
from tests.support.lmms_eval_files import require_lmms_eval

__all__ = ["reference"]

require_lmms_eval()


def test_mme(reference: Reference) -> None:
    theirs, generator = reference("mme.utils"), random.Random(3)
    assert {*theirs.eval_type_dict["Perception"]} == mme.PERCEPTION
    assert {*theirs.eval_type_dict["Cognition"]} == mme.COGNITION
    categories = sorted(mme.PERCEPTION | mme.COGNITION)
    documents = [
        {
            "question_id": f"{number}.png",
            "category": generator.choice(categories),
            "question": f" Is it {number}? Please answer yes or no. ",
        }
        for number in range(COUNT // 2)
    ]
    documents = [{**one, "answer": answer} for one in documents for answer in ("Yes", "No.")]
    ours_items: dict[str, list[Any]] = {}
    theirs_items: dict[str, list[Any]] = {}
    for one, answer in zip(documents, random_answers(4, len(documents), ["yes", "no"] * 20), strict=True):
        mine, other = mme.process_results(one, [answer]), theirs.mme_process_results(one, [answer])
        assert mine == other
        for name in mine:
            ours_items.setdefault(name, []).append(mine[name])
            theirs_items.setdefault(name, []).append(other[name])
    for name in theirs_items:
        assert mme.total_score(ours_items[name]) == pytest.approx(
            theirs.mme_aggregate_results(theirs_items[name]), abs=1e-9
        )
    for kwargs in kwargs_of("mme"):
        assert mme.doc_to_text(documents[0], kwargs) == theirs.mme_doc_to_text(documents[0], kwargs)


def test_pope(reference: Reference) -> None:
    theirs = reference("pope.utils")
    documents = [
        {"question_id": str(number), "question": " Is there? ", "answer": "yes" if number % 2 else "No"}
        for number in range(COUNT)
    ]
    answers = random_answers(5, COUNT, ["yes", "no"] * 50)
    mine = [pope.process_results(one, [answer]) for one, answer in zip(documents, answers, strict=True)]
    other = [theirs.pope_process_results(one, [answer]) for one, answer in zip(documents, answers, strict=True)]
    assert mine == other
    items = [one["pope_recall"] for one in mine]
    for name, function in (
        ("accuracy", groups.mean_score),
        ("precision", pope.precision),
        ("recall", pope.recall),
        ("f1_score", pope.f1_score),
    ):
        assert function(items) == pytest.approx(getattr(theirs, f"pope_aggregate_{name}")(items), abs=1e-9)
    # Theirs is the share of questions whose right answer is yes, whatever the model says.
    assert theirs.pope_aggregate_yes_ratio(items) == 0.5 != pope.yes_ratio(items)
    for kwargs in kwargs_of("pope"):
        assert shared.stripped_question(documents[0], kwargs) == theirs.pope_doc_to_text(documents[0], kwargs)


def test_hallusion_bench_by_rules(reference: Reference) -> None:
    theirs, generator = reference("hallusion_bench.evaluate_hb"), random.Random(6)
    places = {
        (generator.choice(["VD", "VS"]), generator.choice("abc"), generator.choice("01234"), figure, asked)
        for figure in "12"
        for asked in "012"
        for _ in range(20)
    }
    names = ("category", "subcategory", "set_id", "figure_id", "question_id")
    documents = [
        {
            **dict(zip(names, place, strict=True)),
            "gt_answer": generator.choice("01"),
            "gt_answer_details": "It is.",
            "question": "Is it?",
        }
        for place in sorted(places)
    ]
    answers = random_answers(7, len(documents), ["yes", "no"] * 20)
    other = [theirs.hb_process_results(one, [answer])["aAcc"] for one, answer in zip(documents, answers, strict=True)]
    mine = [
        hallusion.process_results(one, [answer])["aAcc_parsed"] for one, answer in zip(documents, answers, strict=True)
    ]
    for name, function in (
        ("aAcc", groups.mean_score),
        ("qAcc", hallusion.share_of_questions),
        ("fAcc", hallusion.share_of_figures),
    ):
        assert function(mine) == pytest.approx(theirs.hb_aggregation_result_intern(other, name), abs=1e-9)
    for kwargs in kwargs_of("hallusion_bench_image"):
        assert shared.question(documents[0], kwargs) == theirs.hb_doc_to_text(documents[0], kwargs)


def test_hallusion_bench_by_a_judge(reference: Reference, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    theirs, generator = reference("hallusion_bench.utils"), random.Random(8)
    asked: dict[str, list[str]] = {"ours": [], "theirs": []}

    def verdict(prompt: str) -> str:
        return random.Random(prompt).choice(["Correct", "incorrect.", "unclear", "hm"])

    def post(url: str, headers: Any, json: Any, timeout: float) -> Any:
        (message,) = json["messages"]
        asked["theirs"].append(message["content"])
        reply = {"choices": [{"message": {"content": verdict(message["content"])}}]}
        return SimpleNamespace(raise_for_status=lambda: None, json=lambda: reply)

    def ask(prompt: str, max_tokens: int) -> str:
        asked["ours"].append(prompt)
        return verdict(prompt)

    monkeypatch.setattr(theirs.requests, "post", post)
    monkeypatch.setattr("lmms_eval_grpc.benchmarks._shared.judge.configured", lambda: True)
    monkeypatch.setattr("lmms_eval_grpc.benchmarks._shared.judge.ask", ask)
    monkeypatch.chdir(tmp_path)
    documents = [
        {
            "category": category,
            "subcategory": "chart",
            "set_id": str(group),
            "figure_id": str(figure),
            "question_id": str(number),
            "visual_input": "1" if figure else "0",
            "gt_answer": "1",
            "gt_answer_details": "It is.",
            "question": f"Is it {number}?",
        }
        for category in ("VD", "VS")
        for group in range(8)
        for figure in (0, 1)
        for number in (0, 1)
    ]
    answers = [
        generator.choice(["Yes.", "No.", "I cannot see it", ""]) + str(number) for number in range(len(documents))
    ]
    mine = [hallusion.process_results(one, [answer])["aAcc"] for one, answer in zip(documents, answers, strict=True)]
    judged = theirs.evaluate_by_chatgpt(
        [{**one, "model_prediction": answer} for one, answer in zip(documents, answers, strict=True)],
        "model_prediction",
        "verdict",
    )
    judged = theirs.assign_correctness(judged, "verdict")
    assert [one["score"] for one in mine] == [one["correct"] for one in judged]
    assert asked["ours"] == asked["theirs"]
    for function, table in (
        (hallusion.judged_answers, theirs.get_eval_all(judged, "verdict")),
        (hallusion.judged_questions, theirs.get_eval_pair_all(judged, "verdict")),
        (hallusion.judged_figures, theirs.get_eval_fig(judged)),
    ):
        assert function(mine) == round(100 * table["correct"] / table["total"], 4)


def mmbench_documents(rotations: int) -> list[dict[str, Any]]:
    generator = random.Random(9)
    documents = []
    for number in range(COUNT // (2 * rotations)):
        options = generator.sample([*OPTIONS, "a tree", "blue"], 4)
        for rotation in range(rotations):
            turned = options[rotation:] + options[:rotation]
            documents.append(
                {
                    "index": number + rotation * mmbench.ROTATION,
                    "question": "What is it?",
                    "hint": generator.choice(["Look closely.", "nan", None]),
                    "answer": "ABCD"[turned.index(options[0])],
                    **dict(zip("ABCD", turned, strict=True)),
                    "category": "colour",
                    "L2-category": "attribute",
                    "source": "s",
                    "split": "dev",
                    "comment": "nan",
                }
            )
    return documents


@pytest.mark.parametrize("rotations", [1, 2, 4])
def test_mmbench_by_rules(reference: Reference, rotations: int) -> None:
    theirs = reference("mmbench.en_utils")
    documents = mmbench_documents(rotations)
    answers = [
        random.Random(number).choice([one["answer"], f"{one['answer']}.", answer, answer])
        for number, (one, answer) in enumerate(
            zip(documents, random_answers(10, len(documents), ["A", "B", "C", "D", *OPTIONS]), strict=True)
        )
    ]
    mine = [mmbench.process_results_by_rules(one, [answer]) for one, answer in zip(documents, answers, strict=True)]
    other = [theirs.mmbench_process_results(one, [answer]) for one, answer in zip(documents, answers, strict=True)]
    evaluator = theirs.mmbench_evaluator
    for one, answer, result in zip(documents, answers, mine, strict=True):
        read = evaluator.can_infer(answer.strip(), {letter: one[letter] for letter in "ABCD"})
        assert mmbench.read_option(answer.strip(), {letter: one[letter] for letter in "ABCD"}) == (read or ""), answer
        assert result["gpt_eval_score"]["prediction"] == answer.strip()
    overall, _, _ = evaluator.eval_result([one["gpt_eval_score"] for one in other], eval_method="static")
    assert mmbench.share_of_questions([one["gpt_eval_score"] for one in mine]) == pytest.approx(100 * overall, abs=1e-9)
    for kwargs in [*kwargs_of("mmbench_en_dev"), None]:
        for one in documents[:50]:
            assert mmbench.doc_to_text(one, kwargs) == theirs.mmbench_doc_to_text(one, kwargs)


def test_mmbench_by_a_judge(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = reference("mmbench.en_utils")
    evaluator = theirs.mmbench_evaluator
    asked: dict[str, set[str]] = {"ours": set(), "theirs": set()}

    def reply(side: str) -> Callable[..., str]:
        def answer(prompt: str, **_: Any) -> str:
            asked[side].add(prompt)
            return random.Random(prompt).choice("ABCD")

        return answer

    monkeypatch.setattr(evaluator, "get_chat_response", reply("theirs"))
    monkeypatch.setattr("lmms_eval_grpc.benchmarks._shared.judge.configured", lambda: True)
    monkeypatch.setattr("lmms_eval_grpc.benchmarks._shared.judge.ask", reply("ours"))
    documents = mmbench_documents(1)
    answers = random_answers(11, len(documents), ["A", "B", "C", "D", *OPTIONS])
    mine = [mmbench.process_results(one, [answer]) for one, answer in zip(documents, answers, strict=True)]
    other = [theirs.mmbench_process_results(one, [answer]) for one, answer in zip(documents, answers, strict=True)]
    overall, _, _ = evaluator.eval_result([one["gpt_eval_score"] for one in other], eval_method="openai")
    assert mmbench.share_of_questions([one["gpt_eval_score"] for one in mine]) == pytest.approx(100 * overall, abs=1e-9)
    assert asked["ours"] == asked["theirs"]


def test_mmstar(reference: Reference) -> None:
    theirs, generator = reference("mmstar.utils"), random.Random(12)
    documents = [
        {
            "index": number,
            "question": " What is it?\nOptions: A: red, B: blue, C: one, D: two ",
            "answer": generator.choice("ABCD"),
            "category": generator.choice(list(theirs.eval_type_dict)),
            "l2_category": generator.choice("uvwxyz"),
        }
        for number in range(COUNT)
    ]
    answers = random_answers(13, COUNT, OPTIONS)
    mine = [mmstar.process_results(one, [answer]) for one, answer in zip(documents, answers, strict=True)]
    assert mine == [
        theirs.mmstar_process_results(one, [answer]) for one, answer in zip(documents, answers, strict=True)
    ]
    for name in ("average", "math"):
        items = [one[name] for one in mine if name in one]
        assert mmstar.mean_over_subcategories(items) == pytest.approx(theirs.mmstar_aggregate_results(items), abs=1e-9)
    for kwargs in kwargs_of("mmstar"):
        assert mmstar.doc_to_text(documents[0], kwargs) == theirs.mmstar_doc_to_text(documents[0], kwargs)


def test_ai2d(reference: Reference) -> None:
    theirs = reference("ai2d.utils")
    one = {"question": "What eats the leaf?", "options": ["worm", "owl", "fox"], "answer": "1"}
    for kwargs in kwargs_of("ai2d"):
        assert ai2d.doc_to_text(one, kwargs) == theirs.ai2d_doc_to_text(one, kwargs)
    for kind in ("mcq", "qa"):
        assert ai2d.doc_to_target(one, kind) == theirs.ai2d_doc_to_target(one, kind)
    responses = [[answer] for answer in random_answers(14, COUNT, OPTIONS)]
    documents = [one] * COUNT
    other = theirs.MultiChoiceRegexFilter(group_select=0, regex_pattern="([A-Z])\\.").apply(responses, documents)
    assert ai2d.LeadingLetterFilter().apply(responses, documents) == other


def test_realworldqa(reference: Reference) -> None:
    theirs = reference("realworldqa.utils")
    for number, answer in enumerate(random_answers(15, COUNT, OPTIONS)):
        one = {
            "question": f" How many?\nA. 1\nB. 2\n{realworldqa.INSTRUCTION} ",
            "answer": ["A", "b", "42", "two dogs", "Yes", answer.strip()][number % 6],
        }
        assert realworldqa.process_results(one, [answer]) == theirs.realworldqa_process_results(one, [answer])
    for kwargs in kwargs_of("realworldqa"):
        assert realworldqa.doc_to_text(one, kwargs) == theirs.realworldqa_doc_to_text(one, kwargs)


@pytest.mark.parametrize("hint", ["", "It is green."])
def test_scienceqa(reference: Reference, hint: str) -> None:
    theirs = reference("scienceqa.utils")
    one = {"question": "Which?", "choices": ["red", "green", "blue"], "answer": 1, "hint": hint}
    for kwargs in [*kwargs_of("scienceqa_img"), *kwargs_of("scienceqa")]:
        assert scienceqa.doc_to_text(one, kwargs) == theirs.sqa_doc_to_text(one, kwargs)
    assert scienceqa.doc_to_target(one) == theirs.sqa_doc_to_target(one)
    for answer in random_answers(16, COUNT, ["B", "b", "B.", "B. green", "b. green"]):
        assert scienceqa.process_results(one, [answer]) == theirs.sqa_process_results(one, [answer]), answer


def test_seedbench(reference: Reference) -> None:
    theirs, generator = reference("seedbench.utils"), random.Random(17)
    items: dict[str, list[Any]] = {"ours": [], "theirs": []}
    for answer in random_answers(18, COUNT, list("ABCDabcd")):
        one = {
            "question": "What?",
            **{f"choice_{letter}": f"thing {letter}" for letter in "abcd"},
            "answer": generator.choice("ABCD"),
            "data_type": generator.choice(["image", "video"]),
            "question_id": "1",
        }
        mine, other = seedbench.process_results(one, [answer]), theirs.seed_process_result(one, [answer])
        assert mine.keys() == other.keys()
        items["ours"].append(mine["seed_all"])
        items["theirs"].append(other["seed_all"])
        assert groups.mean_score([mine["seed_all"]]) == theirs.seed_aggregation_result([other["seed_all"]]), answer
    assert groups.mean_score(items["ours"]) == pytest.approx(theirs.seed_aggregation_result(items["theirs"]), abs=1e-9)
    assert seedbench.doc_to_text(one) == theirs.seed_doc_to_text(one)

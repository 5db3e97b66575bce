"""Extractors, verifiers and the pipelines of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lmms_eval_grpc.engine.judge.cache import use_cache
from lmms_eval_grpc.engine.judge.choice_letters import find_choice_letter
from lmms_eval_grpc.engine.judge.failures import JudgeError
from lmms_eval_grpc.engine.judge.pipeline import VerificationPipeline, build_verification_pipeline
from lmms_eval_grpc.engine.judge.verifiers import OpenAIVerifier, VerifyResult
from tests.support.judge_server import JudgeHandle, Reply, running_judge


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeHandle]:
    with running_judge() as handle:
        monkeypatch.setenv("LLM_JUDGE_URL", handle.url)
        use_cache(None)  # an evaluation in this process may have set one
        yield handle


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("(C)", "C"), ("The answer is (D).", "D"), ("A. A cat", "A"), ("I think A or B, so: B", "B"),
        ("Not (A). The correct answer is C because of B.", "B"), ("答案是D", "D"), ("", ""), ("nothing", ""),
        ("CAB", "B"), ("option: B)", "B"),
    ],
)  # fmt: skip
def test_the_letter_that_an_answer_names(text: str, letter: str) -> None:
    assert find_choice_letter(text) == letter


def test_only_the_letters_that_there_are() -> None:
    assert find_choice_letter("D or B", ["A", "B"]) == "B"


def extract(text: str, *extractors: dict[str, Any]) -> str:
    pipeline = build_verification_pipeline({"extractors": extractors, "verifier": {"type": "exact_match"}})
    return str(pipeline("q", text, "x").metadata["extracted_prediction"])


def test_extractors() -> None:
    assert extract("<thinking>hm</thinking> 4 ", {"type": "strip_reasoning"}) == "4"
    assert extract("[a]x[b]4", {"type": "strip_reasoning", "tag_pairs": [["[a]", "[b]"]]}) == "4"
    assert extract("Answer:  4 .", {"type": "regex", "pattern": r"Answer:\s*(\d)"}) == "4"
    assert extract("Answer 4", {"type": "regex", "pattern": r"\d"}) == "4"
    assert extract("none", {"type": "regex", "pattern": r"(\d)", "fallback": "?"}) == "?"
    assert extract("it is (B)", {"type": "mcq"}) == "B"
    assert extract(r"so 3 and \boxed{ 7 }, not 9", {"type": "number"}) == "7"
    assert extract("first 3, then 1,234.5", {"type": "number"}) == "1234.5"
    assert extract("none", {"type": "number", "fallback": "0"}) == "0"
    assert extract("4<|im_end|></s>", {"type": "strip"}) == "4"
    assert extract("<think>1</think>The 5", {"type": "strip_reasoning"}, {"type": "number"}) == "5"


@pytest.mark.parametrize(
    ("verifier", "prediction", "truth", "correct", "confident"),
    [
        ({"type": "exact_match"}, " Cat ", "cat", True, True),
        ({"type": "exact_match"}, "cats", "cat", False, False),
        ({"type": "exact_match", "ignore_case": False}, "Cat", "cat", False, False),
        ({"type": "contains"}, "a Cat!", "cat", True, True),
        ({"type": "contains"}, "a dog", "cat", False, False),
        ({"type": "mcq_match"}, "(b)", "B.", True, True),
        ({"type": "mcq_match"}, "C", "B", False, True),
        ({"type": "mcq_match"}, "cat", "B", False, False),
        ({"type": "numeric"}, "1,000.5%", "1000", True, True),
        ({"type": "numeric"}, "about 7", "8", False, True),
        ({"type": "numeric"}, "7.1", "7", False, True),
        ({"type": "numeric", "rel_tol": 0.1}, "7.1", "7", True, True),
        ({"type": "numeric"}, "seven", "7", False, False),
    ],
)
def test_rules(verifier: dict[str, Any], prediction: str, truth: str, correct: bool, confident: bool) -> None:
    result = build_verification_pipeline({"verifier": verifier})("q", prediction, truth)
    assert (result.is_correct, result.score, result.metadata["confident"]) == (correct, float(correct), confident)
    assert result.metadata["raw_prediction"] == prediction


def test_a_composite_asks_the_judge_only_where_no_rule_is_sure(judge: JudgeHandle) -> None:
    config = {
        "verifier": {
            "type": "composite",
            "verifiers": [{"type": "exact_match"}, {"type": "local", "model": "m", "retry_delay": 0.01}],
        }
    }
    pipeline = build_verification_pipeline(config)
    assert pipeline("q", "4", "4").is_correct
    assert not judge.asked
    assert pipeline("q", "four", "4").is_correct
    assert len(judge.asked) == 1


def test_a_judge_as_verifier(judge: JudgeHandle) -> None:
    comparative = OpenAIVerifier("m", "local", judge_type="comparative")
    judge.script = [Reply("8 6")]
    result = comparative.verify("q", "p", "t", reference_response="other")
    assert (result.score, result.is_correct) == (0.8, True)
    assert "other" in judge.asked[-1].text
    scored = OpenAIVerifier(
        "m", "local", custom_prompt="{question} {prediction} {ground_truth}", response_format="score"
    )
    judge.script = [Reply("4 of 10")]
    result = scored.verify("q", "p", "t")
    assert (result.score, result.is_correct) == (0.4, False)
    assert judge.asked[-1].text == "q p t"
    own = OpenAIVerifier(
        "m",
        "local",
        custom_prompt=lambda question, prediction, truth: f"own {truth}",
        response_parser=lambda text: VerifyResult(0.5, True, text),
    )
    assert own.verify("q", "p", "t").score == 0.5
    judge.script = [Reply("CORRECT")]
    assert OpenAIVerifier("m", "local", custom_prompt="x").verify("q", "p", "t").is_correct


def test_a_failed_judgement_is_no_verdict(judge: JudgeHandle) -> None:
    judge.answer = lambda asked: Reply(status=500)
    pipeline = build_verification_pipeline(
        {"verifier": {"type": "openai", "api_type": "local", "max_retries": 2, "retry_delay": 0.01}}
    )
    with pytest.raises(JudgeError, match="UNAVAILABLE"):
        pipeline("q", "p", "t")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "a verifier needs a type"),
        ({"verifier": {"type": "oracle"}}, "a verifier needs a type"),
        ({"verifier": {"type": "numeric", "color": 1}}, "verifier 'numeric': .*color"),
        ({"extractors": [{"type": "x"}], "verifier": {"type": "numeric"}}, "an? extractor needs a type"),
        ({"verifier": {"type": "composite"}}, "at least one verifier"),
        ({"verifier": {"type": "openai", "judge_type": "odd"}}, "judge_type must be"),
        ({"verifier": {"type": "openai", "response_format": "odd"}}, "response_format must be"),
    ],
)
def test_a_wrong_pipeline_says_what_is_wrong(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_verification_pipeline(config)
    with pytest.raises(ValueError, match="needs a verifier"):
        VerificationPipeline([])

"""Reading judgements, strictly and as lmms-eval does."""

from __future__ import annotations

from typing import Any

import pytest

from lmms_eval_grpc.engine.judge.failures import JudgeError
from lmms_eval_grpc.engine.judge.parsing import (
    parse_binary,
    parse_comparative,
    parse_correctness,
    parse_json,
    parse_score,
)

NONE = "MALFORMED_JUDGEMENT"


def outcome(parse: Any, text: str, **kwargs: Any) -> Any:
    try:
        return parse(text, **kwargs)
    except JudgeError as error:
        return error.reason


@pytest.mark.parametrize(
    ("text", "strict", "compat"),
    [
        ("1", 1, 1),
        (" [1]\n", 1, 1),
        ("0", 0, 0),
        ("**0**", 0, 0),
        ("1.0", 1, 1),
        ("Score: 1", 1, 1),
        ("The answer is correct. 1", 1, 1),
        ("In step 1 it errs. Score: 0", 0, 1),
        ("Step 2 is fine, so the answer is 1", 1, 1),
        ("10", NONE, 1),
        ("21", NONE, 1),
        ("0 or 1", NONE, 1),
        ("", NONE, 0),
        ("I cannot say.", NONE, 0),
        ("Score: 10", NONE, 1),
        ("0.1", NONE, 1),
    ],
)
def test_right_or_wrong_as_a_digit(text: str, strict: Any, compat: int) -> None:
    assert outcome(parse_binary, text) == strict
    assert parse_binary(text, compat=True) == compat


@pytest.mark.parametrize(
    ("text", "strict", "compat"),
    [
        ("Yes", True, True),
        ("yes, because", True, True),
        ("**Yes**", True, False),
        ("No.", False, False),
        ("The answer is: no", False, False),
        ("Yesterday", NONE, True),
        ("yes and no", True, True),
        ("It is yes or no", NONE, False),
        ("unknown", NONE, False),
    ],
)
def test_right_or_wrong_as_a_word(text: str, strict: Any, compat: bool) -> None:
    assert outcome(parse_binary, text, output_format="yes/no") == strict
    assert parse_binary(text, "yes/no", compat=True) is compat


@pytest.mark.parametrize(
    ("text", "strict", "compat"),
    [
        ("8 9\nbecause 3", (8, 9), (8, 9)),
        ("7.5, 6", (7.5, 6), (7.5, 6)),
        ("Assistant 1: 8, Assistant 2: 9", (8, 9), (1, 8)),
        ("8/10 and 9/10", NONE, (8, 10)),
        ("8", NONE, (-1, -1)),
        ("8 11", NONE, (8, 11)),
        ("\n\n3 4", (3, 4), (3, 4)),
        ("", NONE, (-1, -1)),
    ],
)
def test_two_scores(text: str, strict: Any, compat: tuple[float, float]) -> None:
    assert outcome(parse_comparative, text, score_range=(1, 10)) == strict
    assert parse_comparative(text, (1, 10), compat=True) == compat


def test_an_object_wherever_it_stands() -> None:
    assert parse_json('Here {it is}: {"a": {"b": 1}} and {"c": 2}') == {"a": {"b": 1}}
    assert outcome(parse_json, "nothing {here}") == NONE
    assert parse_json("nothing", compat=True) == {}


def test_a_score_is_cut_to_its_range() -> None:
    assert parse_score("about 12 of 10", (0, 10)) == 10
    assert parse_score("-3.5") == -3.5
    assert outcome(parse_score, "none") == NONE
    assert parse_score("none", (2, 5), compat=True) == 2


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("CORRECT", True), ("Incorrect.", False), ("NOT_ATTEMPTED", False), ("It is not correct", False),
        ("true", True), ("yes", True), ("no", False), ("1", True), ("0", False), ("hm", NONE), ("10", NONE),
    ],
)  # fmt: skip
def test_a_verifiers_verdict(text: str, verdict: Any) -> None:
    assert outcome(parse_correctness, text) == verdict

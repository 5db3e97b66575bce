"""Filters and reasoning tags, input by input."""

from __future__ import annotations

from typing import Any

import pytest

from lmms_eval_grpc.engine.scoring.filters import build_pipelines
from lmms_eval_grpc.engine.scoring.reasoning import DEFAULT_TAGS, effective_tags, parse_tags, strip_reasoning


def run(steps: list[dict[str, Any]], responses: list[str], document: dict[str, Any] | None = None) -> Any:
    (pipeline,) = build_pipelines([{"name": "f", "filter": steps}], strip_thinking_first=False)
    return pipeline.apply(responses, document or {})


CHOICES = {"choices": ["red", "Green leaf", "blue."]}
LETTER = r"\(([A-C])\)"


@pytest.mark.parametrize(
    ("steps", "responses", "expected"),
    [
        ([{"function": "take_first"}], ["a", "b"], "a"),
        ([{"function": "take_first"}], [], ""),
        ([{"function": "take_first_k", "k": 2}], ["a", "b", "c"], ["a", "b"]),
        ([{"function": "majority_vote"}], ["b", "a", "a", "b", "c"], ["b"]),
        ([{"function": "regex"}], ["so #### 1,234.5 done", "none"], ["1,234.5", "[invalid]"]),
        ([{"function": "regex", "regex_pattern": r"\d+", "group_select": -1}], ["1 2 3"], ["3"]),
        ([{"function": "regex", "regex_pattern": r"\d", "group_select": 5}], ["1 2"], ["[invalid]"]),
        ([{"function": "regex", "regex_pattern": r"(x)|(y)", "fallback": "?"}], ["zy", "z"], ["y", "?"]),
        ([{"function": "regex", "regex_pattern": "a(.*)b"}], ["a  q  b", "ab"], ["q", ""]),
        ([{"function": "remove_whitespace"}], ["  a ", "b"], [" a ", "b"]),
        ([{"function": "lowercase"}], ["AbC"], ["abc"]),
        ([{"function": "uppercase"}], ["AbC"], ["ABC"]),
        ([{"function": "map", "mapping_dict": {"A": 1}, "default_value": "?"}], ["A", "B"], [1, "?"]),
        ([{"function": "map"}], ["A"], [None]),
        ([{"function": "strip_thinking"}], ["<think>a</think> b", "<thinking>x</thinking>c"], ["b", "c"]),
        ([{"function": "strip_thinking", "tag_pairs": [["[", "]"]]}], ["[a] b"], ["b"]),
        ([{"function": "take_first"}, {"function": "lowercase"}], ["AB", "C"], "ab"),
        ([{"function": "regex", "regex_pattern": r"\d"}, {"function": "take_first"}], ["x7"], "7"),
    ],
)
def test_each_filter(steps: list[dict[str, Any]], responses: list[str], expected: Any) -> None:
    assert run(steps, responses) == expected


@pytest.mark.parametrize(
    ("response", "arguments", "expected"),
    [
        ("it is (B)", {}, "B"),
        ("the Green leaf one", {}, "(B)"),
        ("the answer: C", {}, "(C)"),
        ("the green LEAF one", {}, "[invalid]"),
        ("the green LEAF one", {"ignore_case": True}, "(B)"),
        ("BLUE", {"ignore_case": True, "ignore_punctuation": True}, "(C)"),
        ("re?d!", {"ignore_punctuation": True}, "(A)"),
        ("r_e_d", {"regexes_to_ignore": ["_"]}, "(A)"),
        ("D or E", {"fallback": "none"}, "none"),
    ],
)
def test_multi_choice_regex(response: str, arguments: dict[str, Any], expected: str) -> None:
    step = {"function": "multi_choice_regex", "regex_pattern": LETTER, **arguments}
    assert run([step], [response], CHOICES) == [expected]


def test_a_class_of_the_tasks_own_sees_its_document() -> None:
    class Prefix:
        def __init__(self, sign: str) -> None:
            self.sign = sign

        def apply(self, resps: list[list[str]], docs: list[dict[str, Any]]) -> Any:
            return ([doc["id"] + self.sign + resp for resp in each] for each, doc in zip(resps, docs, strict=True))

    (pipeline,) = build_pipelines([{"name": "own", "filter": [{"function": Prefix, "sign": "-"}]}], False)
    assert pipeline.needs_media
    assert pipeline.apply(["a", "b"], {"id": "7"}) == ["7-a", "7-b"]


def test_without_a_filter_list_the_first_response_is_taken() -> None:
    (pipeline,) = build_pipelines(None, strip_thinking_first=False)
    assert (pipeline.name, pipeline.apply(["<think>x</think>a"], {})) == ("none", "<think>x</think>a")
    (pipeline,) = build_pipelines(None, strip_thinking_first=True)
    assert pipeline.apply(["<think>x</think>a"], {}) == "a"


def test_pipelines_do_not_chain() -> None:
    entries = [
        {"name": "low", "filter": [{"function": "lowercase"}, {"function": "take_first"}]},
        {"name": "raw", "filter": [{"function": "take_first"}]},
    ]
    assert [pipeline.apply(["A"], {}) for pipeline in build_pipelines(entries, False)] == ["a", "A"]


def test_one_of_several_responses_can_be_filtered_alone() -> None:
    entry = {"name": "f", "filter": [{"function": "take_first_k", "k": 3}, {"function": "majority_vote"}]}
    (pipeline,) = build_pipelines([entry], False)
    assert pipeline.apply_to_one("a", {}) == ["a"]
    with pytest.raises(ValueError, match="needs 3 responses per document, but there are 2; raise repeats"):
        pipeline.apply(["a", "b"], {})


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"name": "f", "filter": [{"function": "nope"}]}], "'nope' is none of lowercase, majority_vote"),
        ([{"name": "f", "filter": [{"function": "regex", "regex_pattern": "("}]}], "regex: missing"),
        ([{"name": "f", "filter": [{"function": "lowercase", "x": 1}]}], "lowercase: .*unexpected keyword"),
        ([{"name": "f", "filter": [{"function": "map", "mapping_dict": [1]}]}], "mapping_dict must be a mapping"),
        ([{"name": "f", "filter": []}], "needs a name and a list"),
        ([{"name": "f", "filter": ["lowercase"]}], "each step needs a function"),
        ([{"name": "f", "filter": [{"function": "lowercase"}]}] * 2, "several pipelines called 'f'"),
    ],
)
def test_filter_lists_with_mistakes(entries: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_pipelines(entries, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think>b", "b"),
        ("  plain  ", "plain"),
        ("x<think>a</think>y<think>b</think>z", "xyz"),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("prefilled</think>answer", "answer"),
        ("one</think>two</think> three", "three"),
        ("<think>never closed", "<think>never closed"),
        ("</think>a<think>b", "</think>a<think>b"),
        ("<analysis>a</analysis><think>b</think>c", "c"),
        ("<THINK>a</THINK>b", "<THINK>a</THINK>b"),
        ("<think></think>", ""),
        ("", ""),
    ],
)
def test_reasoning_is_cut(text: str, expected: str) -> None:
    assert strip_reasoning(text, DEFAULT_TAGS) == expected


def test_which_tags_apply() -> None:
    assert effective_tags(None, None) == DEFAULT_TAGS
    assert effective_tags(None, "none") == ()
    assert effective_tags(None, '[["<r>", "</r>"]]') == (("<r>", "</r>"),)
    assert effective_tags("none", '[["<r>", "</r>"]]') == ()
    assert effective_tags(False, None) == ()
    assert effective_tags([["a", "b"]], "none") == (("a", "b"),)


@pytest.mark.parametrize("value", ["[", '["a", "b"]', '[["a"]]', '[["a", ""]]', "{}", 3])
def test_tags_of_a_wrong_form_say_how_to_write_them(value: Any) -> None:
    with pytest.raises(ValueError, match='write \\[\\["<think>", "</think>"\\]\\] or "none"'):
        parse_tags(value)

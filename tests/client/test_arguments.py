"""lmms-eval's argument strings, and what can travel as JSON."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from lmms_eval_grpc.client import parse_arg_string
from lmms_eval_grpc.client.arguments import from_json_value, to_json_value


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("a=1", {"a": 1}),
        ("a=1,b=two", {"a": 1, "b": "two"}),
        (" a=1 , b=2", {"a": 1, "b": 2}),
        ("t=0.5,e=1e-3,n=-1", {"t": 0.5, "e": 0.001, "n": -1.0}),
        ("a=True,b=false,c=None", {"a": True, "b": False, "c": "None"}),
        ("path=/a=b/c", {"path": "/a=b/c"}),
        ("until=[a,b],x=1", {"until": "[a,b]", "x": 1}),
        ('extra={"k": 1, "l": [2, 3]},x=1', {"extra": '{"k": 1, "l": [2, 3]}', "x": 1}),
        ("text='a,b',x=1", {"text": "'a,b'", "x": 1}),
        (r"text='it\'s, so',x=1", {"text": r"'it\'s, so'", "x": 1}),
        ("a=1,", {"a": 1}),
        ("a=", {"a": ""}),
        ("a=²", {"a": "²"}),
    ],
)
def test_argument_strings_read_as_lmms_eval_reads_them(text: str, arguments: dict[str, Any]) -> None:
    parsed = parse_arg_string(text)
    assert parsed == arguments
    assert [type(value) for value in parsed.values()] == [type(value) for value in arguments.values()]


@pytest.mark.parametrize("text", ["a", "a=1,b", "=1"])
def test_a_part_that_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="key=value"):
        parse_arg_string(text)


def test_values_of_other_libraries_become_plain() -> None:
    value = {"i": np.int64(3), "f": np.float32(0.5), "t": (1, 2), "p": PurePosixPath("/a"), "n": None, "b": True}
    assert to_json_value(value, "x") == {"i": 3, "f": 0.5, "t": [1, 2], "p": "/a", "n": None, "b": True}


def test_integers_that_a_double_cannot_keep_travel_as_text() -> None:
    assert to_json_value([2**53, -(2**53), 2**53 + 1], "x") == [2**53, -(2**53), str(2**53 + 1)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": {"b": object()}}, r"x\.a\.b is a object"),
        ([1, b"raw"], r"x\[1\] is a bytes"),
        (float("nan"), "x is nan"),
        ({"a": float("inf")}, r"x\.a is inf"),
        ({1: 2}, "x has the key 1"),
    ],
)
def test_what_json_cannot_say_is_refused_by_its_path(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        to_json_value(value, "x")


def test_integers_come_back_from_doubles() -> None:
    assert (
        repr(from_json_value({"a": 1.0, "b": [2.5, 3.0], "c": str(Path("d"))})) == "{'a': 1, 'b': [2.5, 3], 'c': 'd'}"
    )

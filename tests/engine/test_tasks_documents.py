"""What a task makes of one document: text, target, choices, visuals, messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pytest

from lmms_eval_grpc.engine.tasks import document_values as values
from lmms_eval_grpc.engine.tasks import messages
from lmms_eval_grpc.engine.tasks.config import TaskConfig
from tests.support.task_files import image

DOCUMENT = {"question": "why?", "answer": "so", "number": 2, "options": ["x", "y", "z"], "pair": ["a", "b"]}
COLUMNS = tuple(DOCUMENT)


def config(**fields: Any) -> TaskConfig:
    return TaskConfig(task="t", **fields)


def with_kwargs(document: Mapping[str, Any], kwargs: Mapping[str, Any]) -> str:
    return f"{kwargs['pre']}{document['question']}"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"doc_to_text": "question"}, "why?"),
        ({"doc_to_text": "number"}, 2),
        ({"doc_to_text": "Q: {{question}}\nA:"}, "Q: why?\nA:"),
        ({"doc_to_text": "{{number}}"}, "2"),
        ({"doc_to_text": "{{number}}", "doc_to_choice": ["x", "y", "z"]}, 2),
        ({"doc_to_text": "{{question | regex_replace('[hy]', '_', 1)}}"}, "w_y?"),
        ({"doc_to_text": 1}, 1),
        ({"doc_to_text": lambda document: document["answer"]}, "so"),
        ({"doc_to_text": with_kwargs, "lmms_eval_specific_kwargs": {"pre": "> "}}, "> why?"),
    ],
)
def test_doc_to_text(fields: dict[str, Any], expected: Any) -> None:
    assert values.doc_to_text(config(**fields), COLUMNS, DOCUMENT) == expected


def test_a_template_with_a_column_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="qestion"):
        values.doc_to_text(config(doc_to_text="{{qestion}}"), COLUMNS, DOCUMENT)


def test_doc_to_text_of_no_known_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="doc_to_text must be"):
        values.doc_to_text(config(), COLUMNS, DOCUMENT)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"doc_to_target": "answer"}, "so"),
        ({"doc_to_target": "pair"}, ["a", "b"]),
        ({"doc_to_target": 0}, 0),
        ({"doc_to_target": ["a"]}, ["a"]),
        ({"doc_to_target": "{{answer}}!"}, "so!"),
        ({"doc_to_target": "{{number}}"}, "2"),
        ({"doc_to_target": "{{number}}", "doc_to_choice": "options"}, 2),
        ({"doc_to_target": "['{{answer}}', 'thus']"}, ["so", "thus"]),
        ({"doc_to_target": "[{{question}}]"}, "[why?]"),
        ({"doc_to_target": lambda document: document["number"]}, 2),
        (
            {"doc_to_target": lambda document, kwargs: kwargs["k"], "model_specific_target_kwargs": {"k": 5}},
            5,
        ),
    ],
)
def test_doc_to_target(fields: dict[str, Any], expected: Any) -> None:
    assert values.doc_to_target(config(**fields), COLUMNS, DOCUMENT) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("options", ["x", "y", "z"]),
        ("{{options[:2]}}", ["x", "y"]),
        (["a", "b"], ["a", "b"]),
        ({"k": "a", "l": "b"}, ["a", "b"]),
        (lambda document: (document["answer"],), ["so"]),
    ],
)
def test_doc_to_choice(rule: Any, expected: list[str]) -> None:
    assert values.doc_to_choice(config(doc_to_choice=rule), COLUMNS, DOCUMENT) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"doc_to_visual": "answer"}, ["so"]),
        ({"doc_to_visual": lambda document: ["v", "w"]}, ["v", "w"]),
        ({"doc_to_visual": lambda document: "v"}, ["v"]),
        ({"doc_to_visual": lambda document: None}, []),
        ({"doc_to_visual": lambda document, kwargs: [kwargs["k"]], "lmms_eval_specific_kwargs": {"k": 1}}, [1]),
        ({"doc_to_visual": lambda document: ["v"], "lmms_eval_specific_kwargs": {"k": 1}}, ["v"]),
    ],
)
def test_doc_to_visual(fields: dict[str, Any], expected: list[Any]) -> None:
    assert values.doc_to_visual(config(**fields), COLUMNS, DOCUMENT) == expected


def test_a_visual_column_that_is_missing_lists_those_that_are_there() -> None:
    with pytest.raises(KeyError, match=r"picture.*answer, number"):
        values.doc_to_visual(config(doc_to_visual="picture"), COLUMNS, DOCUMENT)


def by_name(document: Any, extra: int = 0, lmms_eval_specific_kwargs: Any = None) -> Any:
    return lmms_eval_specific_kwargs


@pytest.mark.parametrize(
    ("function", "kwargs", "expected"),
    [
        (lambda document: "plain", {"k": 1}, "plain"),
        (lambda document, second: second, {"k": 1}, {"k": 1}),
        (lambda document, second=None: second, None, None),
        (by_name, {"k": 1}, {"k": 1}),
        (lambda document, **all_of_them: all_of_them, {"k": 1}, {"lmms_eval_specific_kwargs": {"k": 1}}),
    ],
)
def test_doc_to_messages_gets_what_it_can_take(function: Any, kwargs: Any, expected: Any) -> None:
    fields = config(doc_to_messages=function, lmms_eval_specific_kwargs=kwargs)
    assert values.doc_to_messages(fields, DOCUMENT) == expected


PICTURE = image(3)
CLIP = {"path": "c.mp4", "video_start": 1, "video_end": 2}
SOUND = {"array": [0.0], "sampling_rate": 16000}


@pytest.mark.parametrize(
    ("visual", "kind", "url"),
    [
        (PICTURE, "image", PICTURE),
        ("a/b.PNG", "image", "a/b.PNG"),
        ("b.flac", "audio", "b.flac"),
        ("b.webm", "audio", "b.webm"),
        ("b.mkv", "video", "b.mkv"),
        ("no_ending", "video", "no_ending"),
        (Path("x/b.jpeg"), "image", "x/b.jpeg"),
        ({"url": "c.mp4"}, "video", "c.mp4"),
        ({"type": "image", "path": "c.bin"}, "image", "c.bin"),
        (CLIP, "video", CLIP),
        (SOUND, "audio", SOUND),
    ],
)
def test_each_kind_of_visual(visual: Any, kind: str, url: Any) -> None:
    assert messages.visual_item(visual) == {"type": kind, "url": url}


def test_something_that_is_no_visual_is_an_error() -> None:
    with pytest.raises(TypeError, match="but is NoneType"):
        messages.user_turn([None], "text")


def test_visuals_stand_before_the_text() -> None:
    turn = messages.user_turn([PICTURE, "b.mp4"], "what?")
    assert [item["type"] for item in turn["content"]] == ["image", "video", "text"]
    assert turn["role"] == "user"


def test_text_content_becomes_an_item() -> None:
    given = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ["a", {"type": "text", "text": "b"}]}]
    assert messages.normalise(given) == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]


@pytest.mark.parametrize(
    "given",
    [
        None,
        [],
        "text",
        [{"content": "x"}],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": [{"type": "smell", "url": 1}]}],
        [{"role": "user", "content": [{"type": "text", "text": None}]}],
        [{"role": "user", "content": [{"type": "image", "url": None}]}],
    ],
)
def test_what_no_model_could_be_given_is_refused(given: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        messages.normalise(given)


def test_the_system_text_goes_first_and_never_makes_a_second_system_message() -> None:
    user = {"role": "user", "content": [{"type": "text", "text": "q"}]}
    own = {"role": "system", "content": [{"type": "text", "text": "own"}]}
    assert messages.with_system_text([user], "") == [user]
    assert messages.prompt_text(messages.with_system_text([user], "S")) == "system: S\n\nuser: q"
    both = messages.with_system_text([own, user], "S")
    assert [message["role"] for message in both] == ["system", "user"]
    assert [item["text"] for item in both[0]["content"]] == ["S\n\n", "own"]
    assert len(own["content"]) == 1


def test_the_prompt_of_one_turn_is_its_text_alone() -> None:
    assert messages.prompt_text([messages.user_turn([PICTURE], "what?")]) == "what?"

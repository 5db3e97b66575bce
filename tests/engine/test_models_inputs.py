"""Messages: what a backend makes of what tasks hand in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lmms_eval_grpc.engine.models.huggingface.conversation import MessageError, to_conversation


class Reader:
    """Takes media in as a backend does; each video becomes two images."""

    def __init__(self) -> None:
        self.sources: list[Any] = []

    def __call__(self, kind: str, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        self.sources.append(item["url"])
        return [{"type": "image"}] * 2 if kind == "video" else [{"type": kind}]


def image(url: str) -> dict[str, Any]:
    return {"type": "image", "url": url}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*items: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(items)}


def shape(message: Mapping[str, Any]) -> list[str]:
    return [item.get("text", item["type"]) for item in message["content"]]


def test_media_leave_placeholders_in_order() -> None:
    reader = Reader()
    video = {"type": "video", "url": "v"}
    conversation = to_conversation(
        [{"role": "system", "content": "Be brief."}, user(image("a"), text("or"), video, image("b"))], reader
    )
    assert reader.sources == ["a", "v", "b"]
    assert shape(conversation[1]) == ["image", "or", "image", "image", "image"]
    assert conversation[0]["content"] == [text("Be brief.")]


def test_the_system_prompt_gives_way_to_a_system_message() -> None:
    question = {"role": "user", "content": "Hello"}
    assert shape(to_conversation([question], Reader(), system_prompt="Mine")[0]) == ["Mine"]
    theirs = {"role": "system", "content": "Theirs"}
    own = to_conversation([theirs, question], Reader(), system_prompt="Mine")
    assert [message["role"] for message in own] == ["system", "user"]
    assert shape(own[0]) == ["Theirs"]


def test_the_reasoning_prompt_stands_behind_the_last_question_and_the_task_keeps_its_messages() -> None:
    messages = [user(image("a"), text("One? ")), {"role": "assistant", "content": "1"}, user(text("Two?"), image("b"))]
    found = to_conversation(messages, Reader(), reasoning_prompt=" Think.")
    assert [shape(message) for message in found] == [["image", "One? "], ["1"], ["Two? Think.", "image"]]
    assert messages[2] == user(text("Two?"), image("b"))


def test_interleaved_images_stand_where_the_text_names_them() -> None:
    reader = Reader()
    items = (image("a"), image("b"), image("c"), text("First <image 3>, then <image 1>."))
    assert shape(to_conversation([user(*items)], reader)[0])[-1] == "First <image 3>, then <image 1>."
    reader.sources.clear()
    (found,) = to_conversation([user(*items)], reader, interleave_visuals=True)
    assert shape(found) == ["image", "First ", "image", ", then ", "image", "."]
    assert reader.sources == ["b", "c", "a"]
    with pytest.raises(MessageError, match=r"<image 4>.*3 images"):
        to_conversation([user(*items, text("<image 4>"))], reader, interleave_visuals=True)


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "robot", "content": "x"}], [{"role": "user", "content": [{"type": "smell", "url": "x"}]}]],
)
def test_messages_that_cannot_be_used_say_why(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(MessageError):
        to_conversation(messages, Reader())

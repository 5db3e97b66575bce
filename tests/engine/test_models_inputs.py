"""Messages: what a backend makes of what tasks hand in."""

from __future__ import annotations

from typing import Any

import pytest

from lmms_eval_grpc.engine.models.huggingface.conversation import MessageError, to_conversation


def test_images_leave_placeholders_in_order() -> None:
    conversation = to_conversation(
        [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image", "url": "a"},
                    {"type": "text", "text": "or"},
                    {"type": "image", "url": "b"},
                ],
            },
        ]
    )
    assert conversation.images == ["a", "b"]
    assert [item["type"] for item in conversation.messages[1]["content"]] == ["image", "text", "image"]
    assert conversation.messages[0]["content"] == [{"type": "text", "text": "Be brief."}]


def test_the_system_prompt_gives_way_to_a_system_message() -> None:
    user = {"role": "user", "content": "Hello"}
    assert to_conversation([user], "Mine").messages[0]["content"][0]["text"] == "Mine"
    own = to_conversation([{"role": "system", "content": "Theirs"}, user], "Mine").messages
    assert [message["role"] for message in own] == ["system", "user"]
    assert own[0]["content"][0]["text"] == "Theirs"


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "robot", "content": "x"}], [{"role": "user", "content": [{"type": "video", "url": "v.mp4"}]}]],
)
def test_messages_that_cannot_be_used_say_why(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(MessageError):
        to_conversation(messages)

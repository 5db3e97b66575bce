"""From lmms-eval's chat messages to the conversation that a Hugging Face chat template renders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.engine.models.protocol import Message

ROLES = ("system", "user", "assistant")


class MessageError(ValueError):
    """A request's messages are not what the backend can take; the message says why."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages with placeholders where the images go, and the images' sources in that order."""

    messages: list[dict[str, Any]]
    images: list[Any]


def to_conversation(messages: Sequence[Message], system_prompt: str | None = None) -> Conversation:
    """Checks the messages and takes the media out; ``system_prompt`` is put first when there is no system message.

    Raises :class:`MessageError` for an unknown role, or an item that is neither text nor image.
    """
    if not messages:
        raise MessageError("the request has no messages")
    images: list[Any] = []
    converted = [_convert(message, images) for message in messages]
    if system_prompt and all(message["role"] != "system" for message in converted):
        converted.insert(0, {"role": "system", "content": [{"type": "text", "text": system_prompt}]})
    return Conversation(converted, images)


def _convert(message: Message, images: list[Any]) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise MessageError(f"a message's role must be one of {', '.join(ROLES)}, not {role!r}")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    items: list[dict[str, Any]] = []
    for item in content or ():
        kind = item.get("type")
        if kind == "text":
            items.append({"type": "text", "text": str(item["text"])})
        elif kind == "image":
            images.append(item.get("url", item.get("image")))
            items.append({"type": "image"})
        else:
            raise MessageError(f"this backend reads text and images, not {kind!r}")
    return {"role": role, "content": items}

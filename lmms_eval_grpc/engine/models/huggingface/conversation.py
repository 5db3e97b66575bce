"""From lmms-eval's chat messages to the conversation that a Hugging Face chat template renders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmms_eval_grpc.engine.models.protocol import Message

ROLES = ("system", "user", "assistant")
MEDIA = ("image", "video", "audio")

ReadMedium = Callable[[str, Mapping[str, Any]], list[dict[str, Any]]]
"""Takes a medium's kind and content item in; returns the placeholders that stand for it."""

_NUMBERED_IMAGE = re.compile(r"<image (\d+)>")


class MessageError(ValueError):
    """A request's messages are not what the backend can take; the message says why."""


def to_conversation(
    messages: Sequence[Message],
    read: ReadMedium,
    *,
    system_prompt: str | None = None,
    reasoning_prompt: str | None = None,
    interleave_visuals: bool = False,
) -> list[dict[str, Any]]:
    """Checks the messages and puts placeholders where media are, which are read in their order.

    ``system_prompt`` is put first when there is no system message, ``reasoning_prompt`` behind the text of the last
    user message. With ``interleave_visuals`` images stand where the text says ``<image 1>``, counted in their message.
    Raises :class:`MessageError` for an unknown role or kind of item, and what ``read`` raises.
    """
    if not messages:
        raise MessageError("the request has no messages")
    checked = [_check(message) for message in messages]
    if reasoning_prompt:
        _append_text(checked, reasoning_prompt)
    if interleave_visuals:
        checked = [{**message, "content": _interleave(message["content"])} for message in checked]
    if system_prompt and all(message["role"] != "system" for message in checked):
        checked.insert(0, {"role": "system", "content": [_text(system_prompt)]})
    for message in checked:
        message["content"] = [part for item in message["content"] for part in _place(item, read)]
    return checked


def _check(message: Message) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise MessageError(f"a message's role must be one of {', '.join(ROLES)}, not {role!r}")
    items = [_text(content)] if isinstance(content, str) else list(content or ())
    for item in items:
        if item.get("type") not in ("text", *MEDIA):
            raise MessageError(f"a message's items must be text, {', '.join(MEDIA)}, not {item.get('type')!r}")
    return {"role": role, "content": items}


def _place(item: Mapping[str, Any], read: ReadMedium) -> list[dict[str, Any]]:
    return [_text(str(item["text"]))] if item["type"] == "text" else read(item["type"], item)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _append_text(messages: Sequence[dict[str, Any]], text: str) -> None:
    """Puts ``text`` behind the last text of the last user message."""
    for message in reversed(messages):
        if message["role"] == "user":
            items = message["content"]
            places = [place for place, item in enumerate(items) if item["type"] == "text"]
            if places:
                last = places[-1]
                items[last] = _text(str(items[last]["text"]).strip() + text)
            else:
                items.append(_text(text))
            return


def _interleave(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The items with each ``<image N>`` replaced by the N-th image; images that are not named stay in front."""
    images = [item for item in items if item["type"] == "image"]
    named: set[int] = set()
    placed: list[Mapping[str, Any]] = []
    for item in items:
        if item["type"] == "image":
            continue
        if item["type"] != "text":
            placed.append(item)
            continue
        # Texts and numbers in turn.
        for place, part in enumerate(_NUMBERED_IMAGE.split(str(item["text"]))):
            if place % 2 == 0:
                placed += [_text(part)] if part else []
            elif 1 <= int(part) <= len(images):
                named.add(int(part) - 1)
                placed.append(images[int(part) - 1])
            else:
                raise MessageError(f"the text names <image {part}>, but the message has {len(images)} images")
    if not named:
        return list(items)
    return [image for number, image in enumerate(images) if number not in named] + placed

"""From lmms-eval's chat messages to those of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval_grpc.engine.models.huggingface.conversation import ROLES, MessageError
from lmms_eval_grpc.engine.models.openai.media import audio_item, image_item, video_items
from lmms_eval_grpc.engine.models.openai.options import RequestOptions
from lmms_eval_grpc.engine.models.protocol import Message


def to_api_messages(messages: Sequence[Message], options: RequestOptions) -> list[dict[str, Any]]:
    """The messages with their media encoded; the system prompt is put first when there is no system message.

    What the system and the assistant say is sent as plain text, which every server takes. Raises :class:`MessageError`
    for an unknown role or kind of item, and :class:`MediaError` for a medium that cannot be read.
    """
    if not messages:
        raise MessageError("the request has no messages")
    converted = [_convert(message, options) for message in messages]
    if options.system_prompt and all(message["role"] != "system" for message in converted):
        converted.insert(0, {"role": "system", "content": options.system_prompt})
    return converted


def _convert(message: Message, options: RequestOptions) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise MessageError(f"a message's role must be one of {', '.join(ROLES)}, not {role!r}")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    items = [converted for item in content or () for converted in _convert_item(item, options)]
    if role != "user" and all(item["type"] == "text" for item in items):
        return {"role": role, "content": "".join(item["text"] for item in items)}
    return {"role": role, "content": items}


def _convert_item(item: Mapping[str, Any], options: RequestOptions) -> list[dict[str, Any]]:
    kind = item.get("type")
    if kind == "text":
        return [{"type": "text", "text": str(item["text"])}]
    if kind == "image":
        return [image_item(item.get("url", item.get("image")), options)]
    if kind == "video":
        return video_items(item, options)
    if kind == "audio":
        return [audio_item(item)]
    raise MessageError(f"this backend reads text, images, videos and audio, not {kind!r}")

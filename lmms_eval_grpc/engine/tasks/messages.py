"""Chat messages: made from visuals and text, checked, and read back as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from lmms_eval_grpc.engine.models.protocol import Message

_ROLES = frozenset({"system", "user", "assistant"})
_ITEM_TYPES = frozenset({"text", "image", "video", "audio"})
_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tiff", ".webp"})
_AUDIO_SUFFIXES = frozenset({".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".webm"})
_PART_KEYS = ("video_start", "video_end", "audio_start", "audio_end")


def user_turn(visuals: Iterable[Any], text: str) -> Message:
    """One user message: every visual in order, then the text. Raises TypeError for a visual of an unknown type."""
    return {"role": "user", "content": [*map(visual_item, visuals), {"type": "text", "text": text}]}


def visual_item(visual: Any) -> dict[str, Any]:
    """The content item for one visual.

    A PIL image is an image. A path or URL is known by its ending, and is a video where that says nothing. A mapping
    has a ``type`` (video if it has none) and a ``url`` or ``path``; with the times of a part (``video_start``,
    ``audio_end``, …) or ``bytes`` it is handed on whole, and decoded audio (``array``, ``sampling_rate``) is audio.

    Raises TypeError for anything else.
    """
    if hasattr(visual, "convert") and hasattr(visual, "getpixel"):
        return {"type": "image", "url": visual}
    if isinstance(visual, Mapping):
        if "array" in visual and "sampling_rate" in visual:
            return {"type": visual.get("type", "audio"), "url": visual}
        whole = any(key in visual for key in _PART_KEYS) or visual.get("bytes") is not None
        url = visual if whole else visual.get("url", visual.get("path", visual))
        return {"type": visual.get("type", "video"), "url": url}
    if isinstance(visual, str | PurePath):
        suffix = PurePath(str(visual)).suffix.lower()
        kind = "image" if suffix in _IMAGE_SUFFIXES else "audio" if suffix in _AUDIO_SUFFIXES else "video"
        return {"type": kind, "url": str(visual)}
    raise TypeError(f"a visual must be a PIL image, a path or a mapping, but is {type(visual).__name__}")


def normalise(messages: Any) -> list[Message]:
    """``messages`` as a list of role and content items; text content becomes one text item.

    Raises TypeError or ValueError for anything that no model could be given.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise TypeError(f"doc_to_messages must return a list of messages, but returned {messages!r:.200}")
    return [_normalise_message(message) for message in messages]


def with_system_text(messages: Sequence[Message], text: str) -> list[Message]:
    """``messages`` with ``text`` in their system message, before what the task itself says there.

    Many chat templates accept one system message only, and only at the start, so there is never a second.
    """
    if not text:
        return list(messages)
    first = messages[0]
    if first["role"] == "system":
        content = [{"type": "text", "text": f"{text}\n\n"}, *first["content"]]
        return [{"role": "system", "content": content}, *messages[1:]]
    return [{"role": "system", "content": [{"type": "text", "text": text}]}, *messages]


def joined_text(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``items`` with text items that follow each other made one."""
    joined: list[dict[str, Any]] = []
    for item in items:
        if joined and item["type"] == "text" and joined[-1]["type"] == "text":
            joined[-1] = {"type": "text", "text": joined[-1]["text"] + item["text"]}
        else:
            joined.append(dict(item))
    return joined


def prompt_text(messages: Sequence[Message]) -> str:
    """The text of ``messages`` for a reader, media left out; of several turns each with its role before it."""
    turns = [(message["role"], _text(message)) for message in messages]
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in turns)


def _text(message: Message) -> str:
    return "\n".join(item["text"] for item in message["content"] if item["type"] == "text")


def _normalise_message(message: Any) -> Message:
    if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
        raise ValueError(f"a message needs a role (system, user or assistant) and content, but is {message!r:.200}")
    content = message.get("content")
    items = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(items, list | tuple):
        raise TypeError(f"a message's content must be text or a list of items, but is {content!r:.200}")
    return {"role": message["role"], "content": [_normalise_item(item) for item in items]}


def _normalise_item(item: Any) -> dict[str, Any]:
    if isinstance(item, str):
        return {"type": "text", "text": item}
    if not isinstance(item, Mapping) or item.get("type") not in _ITEM_TYPES:
        raise ValueError(f"a content item needs a type (text, image, video or audio), but is {item!r:.200}")
    if item["type"] == "text":
        if not isinstance(item.get("text"), str):
            raise TypeError(f"a text item's text must be a string, but is {item.get('text')!r:.200}")
    elif item.get("url") is None:
        raise ValueError(f"the {item['type']} of a document is missing: its message item has no url")
    return dict(item)

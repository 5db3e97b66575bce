"""A document's messages: the task's own or automatic ones, with examples and the system text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval_grpc.engine.data.documents import Documents
from lmms_eval_grpc.engine.models.protocol import Message
from lmms_eval_grpc.engine.tasks import document_values, messages
from lmms_eval_grpc.engine.tasks.config import TaskConfig
from lmms_eval_grpc.engine.tasks.fewshot import FewShot

Document = Mapping[str, Any]


def own_messages(config: TaskConfig, documents: Documents, document: Document) -> list[Message]:
    """The messages for one document without examples and system text: ``doc_to_messages``, else visuals and text."""
    if callable(config.doc_to_messages):
        return messages.normalise(document_values.doc_to_messages(config, document))
    if config.doc_to_messages is not None:
        return messages.normalise(config.doc_to_messages)
    visuals = document_values.doc_to_visual(config, documents.columns, document)
    return messages.normalise([messages.user_turn(visuals, question(config, documents, document))])


def question(config: TaskConfig, documents: Documents, document: Document) -> str:
    """``doc_to_text`` as text; of a number, the choice of that number."""
    value = document_values.doc_to_text(config, documents.columns, document)
    if isinstance(value, list):
        raise TypeError("doc_to_text returned a list; several inputs per document are not supported")
    if isinstance(value, int) and config.doc_to_choice is not None:
        return str(document_values.doc_to_choice(config, documents.columns, document)[value])
    if value is None:
        raise TypeError("doc_to_text returned None")
    return str(value)


def answer(config: TaskConfig, documents: Documents, document: Document) -> str:
    """The target as the text of an example: of several the first, of a choice's number its text."""
    value = document_values.doc_to_target(config, documents.columns, document)
    if isinstance(value, list | tuple):
        value = value[0]
    if isinstance(value, int) and config.doc_to_choice is not None:
        return str(document_values.doc_to_choice(config, documents.columns, document)[value])
    return str(value)


def with_examples(
    config: TaskConfig, conversation: Sequence[Message], fewshot: FewShot, doc_id: int, as_multiturn: bool
) -> list[Message]:
    """``conversation`` with the examples for document ``doc_id`` in front of its first user message.

    As turns of their own (``as_multiturn``), or in the user's message: each example's content, then the target
    delimiter, the target and the example delimiter.
    """
    head = [message for message in conversation[:1] if message["role"] == "system"]
    rest = list(conversation[len(head) :])
    turns: list[Message] = []
    for pick in fewshot.choose(doc_id):
        document = fewshot.documents.with_media(pick)
        asked = [
            message for message in own_messages(config, fewshot.documents, document) if message["role"] != "system"
        ]
        answered = answer(config, fewshot.documents, document)
        if as_multiturn:
            turns += [*asked, {"role": "assistant", "content": [{"type": "text", "text": answered}]}]
        else:
            text = f"{config.target_delimiter}{answered}{config.fewshot_delimiter}"
            turns += [*asked, {"role": "user", "content": [{"type": "text", "text": text}]}]
    if as_multiturn:
        return [*head, *turns, *rest]
    items = [item for message in [*turns, rest[0]] for item in message["content"]]
    return [*head, {"role": rest[0]["role"], "content": messages.joined_text(items)}, *rest[1:]]

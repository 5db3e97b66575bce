"""Requests to a server that speaks OpenAI's API, through the backend ``openai``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.openai.backend import OpenAIBackend
from lmms_eval_grpc.engine.models.protocol import GenerationRequest, GenerationResponse
from tests.support.judge_server import JudgeHandle, Reply

KEY = "sk-very-secret"


def load(server: JudgeHandle, **model_args: Any) -> OpenAIBackend:
    arguments = {"model": "m", "base_url": server.url, "api_key": KEY, "retry_backoff_s": 0.01, **model_args}
    backend = registry.create("openai", arguments, device="cpu")
    assert isinstance(backend, OpenAIBackend)
    return backend


def ask(text: str = "Why?", *media: dict[str, Any], **generation: Any) -> GenerationRequest:
    return GenerationRequest([{"role": "user", "content": [*media, {"type": "text", "text": text}]}], generation)


def numbered(count: int, **generation: Any) -> list[GenerationRequest]:
    return [ask(str(number), **generation) for number in range(count)]


def answers(backend: OpenAIBackend, requests: Sequence[GenerationRequest]) -> list[GenerationResponse]:
    """Responses in the order of the requests, after checking that each came exactly once."""
    found = [answer for batch in backend.generate(requests) for answer in batch]
    assert sorted(answer.index for answer in found) == list(range(len(requests)))
    return [answer.response for answer in sorted(found, key=lambda answer: answer.index)]


def refusal(status: int, message: str = "no", **error: Any) -> Reply:
    return Reply(status=status, body=json.dumps({"error": {"message": message, **error}}).encode())

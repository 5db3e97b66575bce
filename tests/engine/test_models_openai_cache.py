"""What of a server's answers is kept for other evaluations: only what it will say again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.run.cached_backend import CachedBackend
from lmms_eval_grpc.engine.run.response_cache import ResponseCache
from tests.support.api_requests import ask, load, refusal
from tests.support.judge_server import Asked, JudgeHandle, Reply


def asked_anew(server: JudgeHandle, folder: Path, generation: dict[str, Any], **model_args: Any) -> list[int]:
    """How many requests the server answers in each of two evaluations that ask the same two questions."""
    counts = []
    for _ in range(2):
        backend = CachedBackend(load(server, **model_args), ResponseCache(folder), {})
        before = len(server.asked)
        batches = backend.generate([ask("one", **generation), ask("two", **generation)])
        assert all(answer.response.error is None for batch in batches for answer in batch)
        counts.append(len(server.asked) - before)
        backend.close()
    return counts


@pytest.mark.parametrize(
    ("generation", "model_args"),
    [
        ({}, {}),
        ({"temperature": 0}, {"extra_body": {"top_k": 5}}),
        ({"temperature": 0.7}, {"extra_body": {"temperature": 0}}),
    ],
)
def test_what_a_server_says_at_temperature_0_is_kept(
    api_server: JudgeHandle, tmp_path: Path, generation: dict[str, Any], model_args: dict[str, Any]
) -> None:
    assert asked_anew(api_server, tmp_path, generation, **model_args) == [2, 0]


@pytest.mark.parametrize(
    "model_args",
    [
        {"model": "gpt-5-mini"},
        {"model": "org/o3"},
        {"extra_body": {"temperature": 0.7}},
        {"extra_body": {"options": {"temperature": 0.7}}},
        {"extra_body": {"generation_config": '{"do_sample": true}'}},
        {"extra_body": {"n": 2}},
    ],
    ids=str,
)
def test_what_a_server_may_draw_is_asked_anew(
    api_server: JudgeHandle, tmp_path: Path, model_args: dict[str, Any]
) -> None:
    assert asked_anew(api_server, tmp_path, {"temperature": 0}, **model_args) == [2, 2]


def test_a_server_that_turns_out_to_take_no_temperature_is_asked_anew(api_server: JudgeHandle, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        if "temperature" in asked.payload:
            return refusal(400, "only the default", param="temperature", code="unsupported_value")
        return Reply("fine")

    api_server.answer = answer
    for asked in asked_anew(api_server, tmp_path, {"temperature": 0}):
        assert asked > 2, "two answers, and at least one refusal before them"

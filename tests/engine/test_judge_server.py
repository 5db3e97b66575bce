"""Judges asked over HTTP, by a real server on this machine."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from lmms_eval_grpc.engine.judge.cache import CACHE_PATH, use_cache
from lmms_eval_grpc.engine.judge.failures import JudgeError, collect_failures
from lmms_eval_grpc.engine.judge.protocol import Request, ServerConfig
from lmms_eval_grpc.engine.judge.server import JudgeServer, get_server
from lmms_eval_grpc.engine.judge.usage import USAGE, JudgeUsage
from tests.support.judge_server import Asked, JudgeHandle, Reply, running_judge

QUESTION = ("What is 2 + 2?", "4", "four")


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeHandle]:
    for name in ("OPENAI_API_URL", "OPENAI_API_BASE", "OPENAI_BASE_URL", "API_TYPE", CACHE_PATH):
        monkeypatch.delenv(name, raising=False)
    with running_judge() as handle:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        monkeypatch.setenv("OPENAI_API_URL", handle.url)
        USAGE.reset()
        use_cache(None)  # an evaluation in this process may have set one
        yield handle


def server(**settings: object) -> JudgeServer:
    values = {"model_name": "gpt-4o", "num_retries": 3, "retry_delay": 0.01, "timeout": 20} | settings
    return get_server("openai", ServerConfig(**values))  # type: ignore[arg-type]


def failure(judge: JudgeServer) -> JudgeError:
    with pytest.raises(JudgeError) as caught:
        judge.evaluate_binary(*QUESTION)
    return caught.value


def test_a_binary_judgement(judge: JudgeHandle) -> None:
    result = server().evaluate_binary(*QUESTION)
    (asked,) = judge.asked
    assert result == {
        "result": 1, "raw_response": "1", "model": "gpt-4o-2026", "prompt": asked.text, "success": True
    }  # fmt: skip
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == "Bearer sk-secret"
    assert asked.payload.keys() == {"model", "messages", "max_tokens", "temperature"}
    assert all(part in asked.text for part in QUESTION)
    assert USAGE.by_model() == {"gpt-4o-2026": JudgeUsage(1, 11, 2)}


def test_other_forms_of_judgement(judge: JudgeHandle) -> None:
    judge.script = [Reply("No."), Reply("7 9\nbecause"), Reply('Sure: {"style": 3}')]
    assert server().evaluate_binary(*QUESTION, output_format="yes/no")["result"] is False
    assert server().evaluate_comparative("q", "a", "b", context="the context")["scores"] == (7.0, 9.0)
    assert "the context" in judge.asked[-1].text
    assert server().evaluate_with_rubric("q", "p", {"style": "how it reads"})["scores"] == {"style": 3}
    assert "style: how it reads" in judge.asked[-1].text


def test_a_custom_prompt_is_sent_as_it_is(judge: JudgeHandle) -> None:
    result = server().evaluate_binary(*QUESTION, custom_prompt="{question}|{answer}|{pred}|{level}", level="easy")
    assert result["prompt"] == judge.asked[0].text == "What is 2 + 2?|4|four|easy"


def test_what_passes_is_tried_again(judge: JudgeHandle) -> None:
    for trouble in (
        Reply(status=429), Reply(status=500), Reply(status=503), Reply(hang_up=True), Reply(body=b"<html>"),
        Reply(body=b'{"choices": []}'), Reply(content=""), Reply(content=None),
        Reply(body=b"{", headers={"Content-Length": "500"}),
    ):  # fmt: skip
        judge.asked.clear()
        judge.script = [trouble]
        assert server().evaluate_binary(*QUESTION)["result"] == 1, trouble
        assert len(judge.asked) == 2, trouble


@pytest.mark.parametrize(
    ("reply", "reason", "requests"),
    [
        (Reply(status=429), "RATE_LIMITED", 3),
        (Reply(status=500), "UNAVAILABLE", 3),
        (Reply(hang_up=True), "UNAVAILABLE", 3),
        (Reply(body=b"[]"), "MALFORMED_RESPONSE", 3),
        (Reply(content=" "), "MALFORMED_RESPONSE", 3),
        (Reply(content="maybe"), "MALFORMED_JUDGEMENT", 1),
        (Reply(status=400), "REFUSED", 1),
        (Reply(status=401), "REFUSED", 1),
        (Reply(content="", finish_reason="content_filter"), "REFUSED", 1),
        (Reply(status=429, body=b'{"error": {"code": "insufficient_quota"}}'), "REFUSED", 1),
    ],
)
def test_what_does_not_pass_is_an_error_of_its_kind(
    judge: JudgeHandle, reply: Reply, reason: str, requests: int
) -> None:
    judge.answer = lambda asked: reply
    error = failure(server())
    assert error.reason == reason
    assert len(judge.asked) == requests
    assert "sk-secret" not in str(error)


def test_a_slow_judge_and_one_that_sends_byte_by_byte_time_out(judge: JudgeHandle) -> None:
    for reply in (Reply(delay=3), Reply(drip=0.1)):
        judge.answer = lambda asked, reply=reply: reply  # type: ignore[misc]
        began = time.monotonic()
        error = failure(server(timeout=0.3, num_retries=1))
        assert error.reason == "TIMEOUT"
        assert time.monotonic() - began < 2.5


def test_retry_after_is_kept_to(judge: JudgeHandle) -> None:
    judge.script = [Reply(status=429, headers={"Retry-After": "1"})]
    assert server().evaluate_binary(*QUESTION)["result"] == 1
    assert judge.asked[1].at - judge.asked[0].at >= 1.0


def test_nobody_there(judge: JudgeHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_URL", "http://127.0.0.1:1/v1")
    error = failure(server())
    assert (error.reason, error.transient) == ("UNAVAILABLE", True)


def test_a_judge_that_is_not_set_up_says_what_is_missing(judge: JudgeHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    error = failure(server())
    assert error.reason == "NOT_CONFIGURED"
    assert "OPENAI_API_KEY" in error.message
    assert not server().is_available()
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_API_URL", "file:///etc/hostname")
    assert failure(server()).reason == "NOT_CONFIGURED"
    with pytest.raises(ValueError, match="is none of openai"):
        get_server("oracle")


def test_no_more_requests_are_open_than_allowed(judge: JudgeHandle) -> None:
    judge.answer = lambda asked: Reply(delay=0.05)
    one = server(max_concurrent=3)
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda number: one.evaluate_binary(f"q{number}", "a", "p")["result"], range(24)))
    assert results == [1] * 24
    assert 1 < judge.most_open <= 3


async def test_a_batch_is_asked_at_once_and_answered_in_order(judge: JudgeHandle) -> None:
    barrier = threading.Barrier(4)  # passes only when four requests are open together

    def answer(asked: Asked) -> Reply:
        return Reply(asked.text)

    original = judge.take

    def take(asked: Asked) -> Reply:
        barrier.wait(timeout=20)
        return original(asked)

    judge.answer, judge.take = answer, take  # type: ignore[method-assign]
    requests = [Request([{"role": "user", "content": f"q{number}"}]) for number in range(4)]
    responses = await server(max_concurrent=4).evaluate_batch(requests)
    assert [response.content for response in responses] == ["q0", "q1", "q2", "q3"]
    assert await server().evaluate_batch([]) == []


async def test_batches_of_judgements(judge: JudgeHandle) -> None:
    judge.answer = lambda asked: Reply("1" if "four it is" in asked.text else "0")
    results = await server().evaluate_binary_batch_async(["q", "q"], ["a", "a"], ["four it is", "five"])
    assert [result["result"] for result in results] == [1, 0]
    with pytest.raises(ValueError):
        await server().evaluate_binary_batch_async(["q"], [], [])


def test_the_same_question_is_paid_for_once(judge: JudgeHandle, tmp_path: Path) -> None:
    use_cache(tmp_path / "new" / "judge.sqlite3")
    try:
        judge.script = [Reply("maybe"), Reply(status=400), Reply("1")]
        for _ in range(2):  # neither what cannot be read nor an error is kept
            failure(server())
        assert [server().evaluate_binary(*QUESTION)["result"] for _ in range(3)] == [1, 1, 1]
        assert len(judge.asked) == 3
        assert USAGE.by_model()["gpt-4o-2026"].cached == 2
        server(model_name="other").evaluate_binary(*QUESTION)
        server(max_tokens=5).evaluate_binary(*QUESTION)
        server().evaluate_binary("Another?", "4", "four")
        assert len(judge.asked) == 6
        # A judge that samples may be asked for several votes.
        for _ in range(2):
            server(temperature=0.5).evaluate_binary(*QUESTION)
        assert len(judge.asked) == 8
    finally:
        use_cache(None)


def test_a_broken_cache_does_no_harm(
    judge: JudgeHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("this is no database, whatever its name says " * 10)
    monkeypatch.setenv(CACHE_PATH, str(tmp_path / "cache"))
    assert server().evaluate_binary(*QUESTION)["result"] == 1
    assert "cannot be read" in caplog.text


def test_images_in_every_form_reach_the_judge(judge: JudgeHandle, tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), "red")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = buffer.getvalue()
    (tmp_path / "p.png").write_bytes(data)
    encoded = base64.b64encode(data).decode()
    images = [picture, str(tmp_path / "p.png"), data, encoded, encoded.encode(), "https://example.org/p.png"]
    request = Request([{"role": "user", "content": "look"}], images=images)
    server(system_prompt="Be strict.").evaluate(request)
    system, user = judge.asked[0].payload["messages"]
    assert system == {"role": "system", "content": "Be strict."}
    urls = [item["image_url"]["url"] for item in user["content"][1:]]
    assert urls[0].startswith("data:image/jpeg;base64,")
    assert urls[1:5] == [f"data:image/png;base64,{encoded}"] * 4
    assert urls[5] == "https://example.org/p.png"
    assert request.messages == [{"role": "user", "content": "look"}]


def test_what_is_sent_depends_on_the_model_and_the_configuration(judge: JudgeHandle) -> None:
    server(model_name="o3-mini", top_p=0.9, response_format="json").evaluate_binary(*QUESTION)
    payload = judge.asked[0].payload
    assert payload["max_completion_tokens"] == 1024
    assert payload["top_p"] == 0.9
    assert payload["response_format"] == {"type": "json_object"}
    assert "temperature" not in payload


def test_azure_local_and_dummy(judge: JudgeHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServerConfig("my-deployment")
    monkeypatch.setenv("AZURE_API_KEY", "az")
    monkeypatch.setenv("AZURE_ENDPOINT", judge.url.removesuffix("/v1"))
    get_server("azure", config).evaluate_binary(*QUESTION)
    path = "/openai/deployments/my-deployment/chat/completions?api-version=2024-02-15-preview"
    assert (judge.asked[0].path, judge.asked[0].headers["Api-Key"]) == (path, "az")
    monkeypatch.setenv("LLM_JUDGE_URL", f"{judge.url}/chat/completions")
    monkeypatch.setenv("API_TYPE", "local")
    get_server(None, config).evaluate_binary(*QUESTION)
    assert judge.asked[1].path == "/v1/chat/completions"
    assert "Authorization" not in judge.asked[1].headers
    dummy = get_server("dummy", config)
    assert dummy.is_available()
    assert dummy.evaluate(Request([{"role": "user", "content": "?"}])).content == "dummy"


def test_a_failure_that_was_swallowed_is_still_known(judge: JudgeHandle) -> None:
    judge.script = [Reply(status=400)]
    with collect_failures() as failures:
        with pytest.raises(JudgeError):
            server().evaluate_binary(*QUESTION)
        first = failures.first()
        assert first is not None
        assert first.reason == "REFUSED"
        server().evaluate_binary(*QUESTION)  # the asker's own second attempt makes up for it
        assert failures.first() is None


def test_the_reply_survives_as_json(judge: JudgeHandle) -> None:
    response = server().evaluate(Request([{"role": "user", "content": "?"}]))
    assert response.success
    assert json.loads(json.dumps(response.raw_response))["usage"]["total_tokens"] == 13

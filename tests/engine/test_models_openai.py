"""Models behind a server that speaks OpenAI's API: a real HTTP server on this machine that also behaves badly."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from PIL import Image

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.openai.backend import OpenAIBackend
from lmms_eval_grpc.engine.models.openai.concurrency import AdaptiveLimit
from lmms_eval_grpc.engine.models.protocol import Answer, GenerationRequest, GenerationResponse
from tests.support.judge_server import Asked, JudgeHandle, Reply, running_judge

KEY = "sk-very-secret"
OVERLOADED = {"Retry-After": "0", "retry-after-ms": "5"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeHandle]:
    for name in ("OPENAI_API_KEY", "OPENAI_API_BASE", "OPENAI_BASE_URL", "OPENAI_API_URL", "LMMS_IMAGE_ENCODE_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    with running_judge() as handle:
        handle.answer = lambda asked: Reply(f"answer to {question(asked)}")
        yield handle


def load(server: JudgeHandle, **model_args: Any) -> OpenAIBackend:
    arguments = {"model": "m", "base_url": server.url, "api_key": KEY, "retry_backoff_s": 0.01, **model_args}
    backend = registry.create("openai", arguments, device="cpu")
    assert isinstance(backend, OpenAIBackend)
    return backend


def ask(text: str = "Why?", *media: dict[str, Any], **generation: Any) -> GenerationRequest:
    return GenerationRequest([{"role": "user", "content": [*media, {"type": "text", "text": text}]}], generation)


def numbered(count: int, **generation: Any) -> list[GenerationRequest]:
    return [ask(str(number), **generation) for number in range(count)]


def question(asked: Asked) -> str:
    """The text of the request's last item."""
    return str(asked.payload["messages"][-1]["content"][-1]["text"])


def answers(backend: OpenAIBackend, requests: Sequence[GenerationRequest]) -> list[GenerationResponse]:
    """Responses in the order of the requests, after checking that each came exactly once."""
    found = [answer for batch in backend.generate(requests) for answer in batch]
    assert sorted(answer.index for answer in found) == list(range(len(requests)))
    return [answer.response for answer in sorted(found, key=lambda answer: answer.index)]


def refusal(status: int, message: str = "no", **error: Any) -> Reply:
    return Reply(status=status, body=json.dumps({"error": {"message": message, **error}}).encode())


def no_request_thread_is_left() -> bool:
    return not any(thread.name.startswith(("requests", "build")) for thread in threading.enumerate())


def test_every_request_is_answered_once_whatever_the_order(server: JudgeHandle) -> None:
    hold = threading.Event()
    server.answer = lambda asked: Reply(f"answer to {question(asked)}", hold=hold if question(asked) == "0" else None)
    found: list[Answer] = []
    for batch in load(server).generate(numbered(60)):
        found += batch
        if len(found) >= 20:
            hold.set()
    assert [answer.index for answer in found] != list(range(60))
    assert sorted((answer.index, answer.response.text) for answer in found) == [
        (number, f"answer to {number}") for number in range(60)
    ]
    assert no_request_thread_is_left()


def test_requests_carry_the_key_and_the_generation_arguments(server: JudgeHandle) -> None:
    request = ask("Q", until=["a", "b", "c", "d", "e"], max_new_tokens=7, temperature=0.5, top_p=0.9, top_k=3, seed=5)
    (response,) = answers(load(server, extra_body={"own": 1}, extra_headers={"X-Team": "red"}), [request])
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.headers["X-Team"] == "red"
    payload = {key: value for key, value in asked.payload.items() if key != "messages"}
    assert payload == {
        "model": "m",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 5,
        "stop": ["a", "b", "c", "d"],
        "top_k": 3,
        "own": 1,
    }
    assert (response.input_tokens, response.output_tokens) == (11, 2)


def test_greedy_requests_send_temperature_zero_and_no_sampling_arguments(server: JudgeHandle) -> None:
    answers(load(server), [ask(do_sample=False, top_p=0.9, top_k=5, num_beams=1, use_cache=True)])
    payload = server.asked[0].payload
    assert payload["temperature"] == 0
    assert not {"top_p", "top_k", "num_beams", "use_cache", "stop"} & payload.keys()
    assert payload["max_tokens"] == 1024


@pytest.mark.parametrize("generation", [{"n": 2}, {"num_beams": 4}, {"max_new_tokens": 0}, {"no_such": 1}])
def test_generation_arguments_that_cannot_be_meant_are_refused(server: JudgeHandle, generation: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError) as caught:
        answers(load(server), [ask(**generation)])
    assert caught.value.reason == "INVALID_GENERATION_ARGS"
    assert next(iter(generation)) in caught.value.message
    assert no_request_thread_is_left()


def test_reasoning_models_get_their_own_limit_and_no_temperature(server: JudgeHandle) -> None:
    server.answer = lambda asked: Reply(
        more={
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 8,
                "total_tokens": 17,
                "completion_tokens_details": {"reasoning_tokens": 6},
                "prompt_tokens_details": {"cached_tokens": 4},
            }
        }
    )
    (response,) = answers(load(server, model="gpt-5-mini"), [ask(temperature=0, max_new_tokens=3)])
    payload = server.asked[0].payload
    assert payload["max_completion_tokens"] == 3
    assert not {"max_tokens", "temperature"} & payload.keys()
    assert (response.reasoning_tokens, response.cached_input_tokens) == (6, 4)


def test_what_a_server_does_not_take_is_learnt_from_its_refusal(server: JudgeHandle) -> None:
    def answer(asked: Asked) -> Reply:
        if "max_tokens" in asked.payload:
            return refusal(400, "use max_completion_tokens", param="max_tokens", code="unsupported_parameter")
        if "temperature" in asked.payload:
            return refusal(400, "only the default", param="temperature", code="unsupported_value")
        return Reply("fine")

    server.answer = answer
    backend = load(server)
    assert [response.text for response in answers(backend, [ask()])] == ["fine"]
    assert len(server.asked) == 3
    assert [response.text for response in answers(backend, [ask()])] == ["fine"]
    assert len(server.asked) == 4


def test_stop_strings_are_cut_here_too_and_a_server_that_refuses_them_gets_none(server: JudgeHandle) -> None:
    server.answer = lambda asked: refusal(500) if "stop" in asked.payload else Reply("one\n\ntwo")
    backend = load(server)
    responses = answers(backend, [ask(until=["\n\n"]), ask(until=["ne"])])
    assert [response.text for response in responses] == ["one", "o"]
    before = len(server.asked)
    answers(backend, [ask(until=["x"])])
    assert len(server.asked) == before + 1


def test_images_are_sent_without_loss_and_upright(server: JudgeHandle, digit_images: list[bytes]) -> None:
    turned = io.BytesIO()
    picture = Image.new("RGB", (4, 2), "red")
    picture.putpixel((0, 0), (0, 0, 255))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(turned, "PNG", exif=exif)
    media = [{"type": "image", "url": data} for data in (digit_images[0], turned.getvalue())]
    remote = {"type": "image", "url": "https://example.com/a.png"}
    answers(load(server), [ask("Q", *media, remote)])
    first, second, third, _ = server.asked[0].payload["messages"][0]["content"]
    assert first["type"] == second["type"] == "image_url"
    sent = decode(first)
    assert sent.format == "PNG"
    assert sent.tobytes() == Image.open(io.BytesIO(digit_images[0])).convert("RGB").tobytes()
    assert decode(second).size == (2, 4)
    assert third["image_url"]["url"] == "https://example.com/a.png"


def decode(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["image_url"]["url"].partition(",")[2])))


def test_the_environment_chooses_the_format_of_images(server: JudgeHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMMS_IMAGE_ENCODE_FORMAT", "jpg")
    monkeypatch.setenv("LMMS_IMAGE_JPEG_QUALITY", "30")
    backend = load(server)
    answers(backend, [ask("Q", {"type": "image", "url": Image.new("RGB", (8, 8))})])
    assert decode(server.asked[0].payload["messages"][0]["content"][0]).format == "JPEG"
    assert (backend.identity["image_format"], backend.identity["jpeg_quality"]) == ("JPEG", 30)
    monkeypatch.setenv("LMMS_IMAGE_ENCODE_FORMAT", "tga")
    with pytest.raises(EvaluationError, match="LMMS_IMAGE_ENCODE_FORMAT"):
        load(server)


def test_an_image_that_is_too_large_is_scaled_down(server: JudgeHandle) -> None:
    noise = Image.effect_noise((256, 256), 80)
    answers(load(server, max_size_in_mb=0.05), [ask("Q", {"type": "image", "url": noise})])
    url = server.asked[0].payload["messages"][0]["content"][0]["image_url"]["url"]
    assert len(base64.b64decode(url.partition(",")[2])) <= 0.05 * 1024 * 1024
    assert decode(server.asked[0].payload["messages"][0]["content"][0]).width < 256


def test_a_system_prompt_is_put_first_unless_there_is_one(server: JudgeHandle, tmp_path: Any) -> None:
    (tmp_path / "prompt.txt").write_text("Be brief.\n")
    backend = load(server, system_prompt=str(tmp_path / "prompt.txt"))
    own = GenerationRequest([{"role": "system", "content": [{"type": "text", "text": "Mine"}]}, *ask().messages], {})
    answers(backend, [ask()])
    answers(backend, [own])
    assert [asked.payload["messages"][0] for asked in server.asked] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Mine"},
    ]
    assert backend.identity["system_prompt"] == "Be brief."


def test_a_broken_image_fails_alone(server: JudgeHandle, digit_images: list[bytes]) -> None:
    requests = [ask("Q", {"type": "image", "url": data}) for data in (digit_images[0], digit_images[1][:40])]
    sound, broken = answers(load(server), requests)
    assert sound.text == "answer to Q"
    assert "cannot be decoded" in str(broken.error)
    assert len(server.asked) == 1


FLEETING = {
    "rate limit": (Reply(status=429, headers=OVERLOADED), "RATE_LIMITED"),
    "server error": (Reply(status=500), "SERVER_ERROR"),
    "gateway": (Reply(status=502, body=b"<html>bad gateway</html>", headers={"Content-Type": "text/html"}), "SERVER_"),
    "broken JSON": (Reply(body=b'{"choices": [{'), "MALFORMED_RESPONSE"),
    "no JSON": (Reply(body=b"hello", headers={"Content-Type": "text/plain"}), "MALFORMED_RESPONSE"),
    "no choices": (Reply(more={"choices": []}), "MALFORMED_RESPONSE"),
    "hang-up": (Reply(hang_up=True), "UNREACHABLE"),
    "silence": (Reply(delay=3), "TIMEOUT"),
}


@pytest.mark.parametrize("name", FLEETING)
def test_a_failure_that_may_pass_is_tried_again(server: JudgeHandle, name: str) -> None:
    reply, _ = FLEETING[name]
    server.script = [reply, reply]
    (response,) = answers(load(server, timeout=1 if name == "silence" else 60), [ask()])
    assert (response.text, response.error) == ("answer to Why?", None)
    assert len(server.asked) == 3


@pytest.mark.parametrize("name", FLEETING)
def test_a_failure_that_stays_is_an_error_and_no_answer(server: JudgeHandle, name: str) -> None:
    reply, word = FLEETING[name]
    server.answer = lambda asked: reply if question(asked) == "1" else Reply("yes")
    responses = answers(load(server, max_retries=2, timeout=1 if name == "silence" else 60), numbered(3))
    assert [response.text for response in responses] == ["yes", "", "yes"]
    assert str(responses[1].error).startswith(word)
    assert "after 2 attempts" in str(responses[1].error)


@pytest.mark.parametrize(
    "reply",
    [
        Reply("half an answer", finish_reason="content_filter"),
        refusal(400, "The response was filtered", code="content_filter"),
    ],
)
def test_a_content_filter_is_an_error_of_that_sample_at_once(server: JudgeHandle, reply: Reply) -> None:
    server.answer = lambda asked: reply if question(asked) == "1" else Reply("yes")
    responses = answers(load(server), numbered(3))
    assert [response.error is None for response in responses] == [True, False, True]
    assert str(responses[1].error).startswith("CONTENT_FILTER")
    assert responses[1].text == ""
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (refusal(401, f"wrong key {KEY}"), "AUTHENTICATION_FAILED"),
        (refusal(404, "there is no model m", code="model_not_found"), "UNKNOWN_SERVED_MODEL"),
        (refusal(429, "pay first", code="insufficient_quota"), "QUOTA_EXHAUSTED"),
    ],
)
def test_what_is_wrong_for_all_requests_ends_the_evaluation_at_once(
    server: JudgeHandle, reply: Reply, reason: str
) -> None:
    server.answer = lambda asked: reply
    with pytest.raises(EvaluationError) as caught:
        answers(load(server), numbered(200))
    assert caught.value.reason == reason
    assert KEY not in caught.value.message
    assert len(server.asked) < 20
    assert no_request_thread_is_left()


def test_a_server_that_is_not_there_is_noticed_before_any_request(server: JudgeHandle) -> None:
    with pytest.raises(EvaluationError) as caught:
        load(server, base_url="http://127.0.0.1:9/v1")
    assert caught.value.reason == "MODEL_SERVER_UNREACHABLE"


def test_a_server_that_goes_away_ends_the_evaluation(server: JudgeHandle) -> None:
    backend = load(server, max_retries=2)
    server.answer = lambda asked: Reply(hang_up=True)
    with pytest.raises(EvaluationError) as caught:
        answers(backend, numbered(100))
    assert caught.value.reason == "MODEL_SERVER_UNREACHABLE"


def test_the_number_of_open_requests_doubles_while_all_is_well(server: JudgeHandle) -> None:
    # Nobody is answered before as many are open as the limit must have come to by then.
    wanted, waiting, late = [4, 8, 16, 32], 0, False
    changed = threading.Condition()

    def answer(asked: Asked) -> Reply:
        nonlocal waiting, late
        with changed:
            waiting += 1
            if wanted and waiting == wanted[0]:
                waiting = 0
                wanted.pop(0)
                changed.notify_all()
            elif wanted:
                mine = len(wanted)
                late |= not changed.wait_for(lambda: len(wanted) < mine, timeout=30)
        return Reply("ok")

    server.answer = answer
    backend = load(server, adaptive_max_concurrency=32)
    responses = answers(backend, numbered(100))
    assert [response.text for response in responses] == ["ok"] * 100
    assert not late
    assert not wanted
    assert backend.limit.value == 32


def test_an_overload_takes_the_limit_down_and_everything_is_answered_still(server: JudgeHandle) -> None:
    most, refused = 6, 0

    def answer(asked: Asked) -> Reply:
        nonlocal refused
        if server.open > most:
            refused += 1
            return Reply(status=429, headers=OVERLOADED)
        return Reply("ok", delay=0.01)

    server.answer = answer
    backend = load(server, adaptive_max_concurrency=64)
    responses = answers(backend, numbered(200))
    assert [response.text for response in responses] == ["ok"] * 200
    assert refused > 0
    assert backend.limit.value < 32


def test_a_limit_grows_only_when_reached_and_retreats_once_a_round() -> None:
    limit = AdaptiveLimit(least=2, most=100, first=10)
    limit.succeed(limit.begin(3))
    assert limit.value == 10
    round_of_ten = [limit.begin(open_requests) for open_requests in range(1, 11)]
    for ticket in round_of_ten:
        limit.succeed(ticket)
    assert limit.value == 20
    round_of_twenty = [limit.begin(open_requests) for open_requests in range(1, 21)]
    for ticket in round_of_twenty:
        limit.retreat(ticket)
    assert limit.value == 14
    round_of_fourteen = [limit.begin(open_requests) for open_requests in range(1, 15)]
    for ticket in round_of_fourteen:
        limit.succeed(ticket)
    assert 14 <= limit.value <= 15
    for _ in range(20):
        limit.retreat(limit.begin(1))
    assert limit.value == 2


def test_the_concurrency_may_be_fixed(server: JudgeHandle) -> None:
    backend = load(server, adaptive_concurrency=False, num_concurrent=3)
    answers(backend, numbered(40))
    assert server.most_open <= 3
    assert backend.limit.value == 3


class Counting(list[GenerationRequest]):
    """Counts how often each request is built."""

    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        super().__init__(requests)
        self.built = [0] * len(self)

    def __getitem__(self, index: Any) -> Any:
        self.built[index] += 1
        return super().__getitem__(index)


def test_requests_are_built_once_and_only_a_window_of_them(server: JudgeHandle) -> None:
    hold = threading.Event()
    server.answer = lambda asked: Reply("ok", hold=hold)
    requests = Counting(numbered(200))
    stream = load(server, adaptive_concurrency=False, num_concurrent=4).generate(requests)
    for batch in stream:  # an empty one says that half a second is over
        assert batch == []
        break
    assert sum(requests.built) <= 4 + 8
    hold.set()
    assert sum(len(batch) for batch in stream) == 200
    assert set(requests.built) == {1}


def test_closing_the_iterator_leaves_nothing_running(server: JudgeHandle) -> None:
    hold = threading.Event()
    server.answer = lambda asked: Reply("ok", hold=hold if int(question(asked)) >= 4 else None)
    stream = load(server).generate(numbered(100))
    got = 0
    for batch in stream:
        got += len(batch)
        if got == 4:
            break
    stream.close()  # type: ignore[attr-defined]
    assert no_request_thread_is_left()
    asked = len(server.asked)
    hold.set()
    assert asked < 40
    assert len(server.asked) == asked


def test_a_failing_fetch_fails_its_request_alone(server: JudgeHandle) -> None:
    class Requests(list[GenerationRequest]):
        def __getitem__(self, index: Any) -> Any:
            if index == 1:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    responses = answers(load(server), Requests(numbered(3)))
    assert "the disk is gone" in str(responses[1].error)
    assert [response.error is None for response in responses] == [True, False, True]


def test_the_identity_holds_what_answers_depend_on_and_no_secret(server: JudgeHandle) -> None:
    secret = server.url.replace("http://", "http://user:pa55@")
    backend = load(server, base_url=f"{secret}?key=pa55", extra_headers={"X-Token": "pa55"}, max_new_tokens=9)
    text = json.dumps(backend.identity)
    assert "pa55" not in text
    assert KEY not in text
    assert backend.identity["base_url"] == server.url
    assert (backend.identity["model_version"], backend.identity["max_new_tokens"]) == ("m", 9)


def test_addresses_and_keys_come_from_the_environment(server: JudgeHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match="OPENAI_API_KEY"):
        registry.create("openai", {"model_version": "m"}, device="cpu")
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/chat/completions")
    for name in ("openai", "async_openai", "openai_compatible", "async_openai_compatible_chat"):
        backend = registry.create(name, {"pretrained": "m"}, device="cpu")
        answers(backend, [ask()])  # type: ignore[arg-type]
    assert {asked.headers["Authorization"] for asked in server.asked} == {"Bearer from-environment"}
    assert len(server.asked) == 4


def test_azure_has_its_own_address_and_key(server: JudgeHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-key")
    monkeypatch.setenv("AZURE_OPENAI_API_BASE", server.url.removesuffix("/v1"))
    monkeypatch.setenv("AZURE_OPENAI_API_VERSION", "2024-06-01")
    backend = registry.create("openai", {"model": "gpt-4o", "azure_openai": True}, device="cpu")
    answers(backend, [ask()])  # type: ignore[arg-type]
    assert server.asked[0].path == "/openai/deployments/gpt-4o/chat/completions?api-version=2024-06-01"
    assert server.asked[0].headers["api-key"] == "azure-key"


@pytest.mark.parametrize(
    ("model_args", "fault"),
    [
        ({}, "model_version"),
        ({"model": "a", "model_version": "b"}, "mean the same"),
        ({"model": "a", "tiemout": 3}, "'timeout'"),
        ({"model": "a", "timeout": "long"}, "a number"),
    ],
)
def test_wrong_arguments_are_refused_with_the_valid_ones(model_args: dict[str, Any], fault: str) -> None:
    entry = registry.resolve("openai")
    assert entry is not None
    (problem,) = entry.check_args(model_args)
    assert fault in problem.description


@pytest.mark.parametrize(
    ("name", "value"), [("timeout", 0), ("adaptive_decrease_factor", 2.0), ("retry_backoff_s", -1)]
)
def test_values_out_of_range_are_named(server: JudgeHandle, name: str, value: float) -> None:
    with pytest.raises(EvaluationError, match=name):
        load(server, **{name: value})

"""What is sent to a server that speaks OpenAI's API: a real HTTP server on this machine."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.protocol import GenerationRequest
from tests.support.api_requests import KEY, answers, ask, load, refusal
from tests.support.judge_server import Asked, JudgeHandle, Reply


def test_requests_carry_the_key_and_the_generation_arguments(api_server: JudgeHandle) -> None:
    request = ask("Q", until=["a", "b", "c", "d", "e"], max_new_tokens=7, temperature=0.5, top_p=0.9, top_k=3, seed=5)
    (response,) = answers(load(api_server, extra_body={"own": 1}, extra_headers={"X-Team": "red"}), [request])
    (asked,) = api_server.asked
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


def test_greedy_requests_send_temperature_zero_and_no_sampling_arguments(api_server: JudgeHandle) -> None:
    answers(load(api_server), [ask(do_sample=False, top_p=0.9, top_k=5, num_beams=1, use_cache=True)])
    payload = api_server.asked[0].payload
    assert payload["temperature"] == 0
    assert not {"top_p", "top_k", "num_beams", "use_cache", "stop"} & payload.keys()
    assert payload["max_tokens"] == 1024


@pytest.mark.parametrize("generation", [{"n": 2}, {"num_beams": 4}, {"max_new_tokens": 0}, {"no_such": 1}])
def test_generation_arguments_that_cannot_be_meant_are_refused(
    api_server: JudgeHandle, generation: dict[str, Any]
) -> None:
    with pytest.raises(EvaluationError) as caught:
        answers(load(api_server), [ask(**generation)])
    assert caught.value.reason == "INVALID_GENERATION_ARGS"
    assert next(iter(generation)) in caught.value.message


def test_reasoning_models_get_their_own_limit_and_no_temperature(api_server: JudgeHandle) -> None:
    api_server.answer = lambda asked: Reply(
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
    (response,) = answers(load(api_server, model="gpt-5-mini"), [ask(temperature=0, max_new_tokens=3)])
    payload = api_server.asked[0].payload
    assert payload["max_completion_tokens"] == 3
    assert not {"max_tokens", "temperature"} & payload.keys()
    assert (response.reasoning_tokens, response.cached_input_tokens) == (6, 4)


def test_what_a_server_does_not_take_is_learnt_from_its_refusal(api_server: JudgeHandle) -> None:
    def answer(asked: Asked) -> Reply:
        if "max_tokens" in asked.payload:
            return refusal(400, "use max_completion_tokens", param="max_tokens", code="unsupported_parameter")
        if "temperature" in asked.payload:
            return refusal(400, "only the default", param="temperature", code="unsupported_value")
        return Reply("fine")

    api_server.answer = answer
    backend = load(api_server)
    assert [response.text for response in answers(backend, [ask()])] == ["fine"]
    assert len(api_server.asked) == 3
    assert [response.text for response in answers(backend, [ask()])] == ["fine"]
    assert len(api_server.asked) == 4


def test_stop_strings_are_cut_here_too_and_a_server_that_refuses_them_gets_none(api_server: JudgeHandle) -> None:
    api_server.answer = lambda asked: refusal(500) if "stop" in asked.payload else Reply("one\n\ntwo")
    backend = load(api_server)
    responses = answers(backend, [ask(until=["\n\n"]), ask(until=["ne"])])
    assert [response.text for response in responses] == ["one", "o"]
    before = len(api_server.asked)
    answers(backend, [ask(until=["x"])])
    assert len(api_server.asked) == before + 1


def test_images_are_sent_without_loss_and_upright(api_server: JudgeHandle, digit_images: list[bytes]) -> None:
    turned = io.BytesIO()
    picture = Image.new("RGB", (4, 2), "red")
    picture.putpixel((0, 0), (0, 0, 255))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(turned, "PNG", exif=exif)
    media = [{"type": "image", "url": data} for data in (digit_images[0], turned.getvalue())]
    remote = {"type": "image", "url": "https://example.com/a.png"}
    answers(load(api_server), [ask("Q", *media, remote)])
    first, second, third, _ = api_server.asked[0].payload["messages"][0]["content"]
    assert first["type"] == second["type"] == "image_url"
    sent = decode(first)
    assert sent.format == "PNG"
    assert sent.tobytes() == Image.open(io.BytesIO(digit_images[0])).convert("RGB").tobytes()
    assert decode(second).size == (2, 4)
    assert third["image_url"]["url"] == "https://example.com/a.png"


def decode(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["image_url"]["url"].partition(",")[2])))


def test_the_environment_chooses_the_format_of_images(api_server: JudgeHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMMS_IMAGE_ENCODE_FORMAT", "jpg")
    monkeypatch.setenv("LMMS_IMAGE_JPEG_QUALITY", "30")
    backend = load(api_server)
    answers(backend, [ask("Q", {"type": "image", "url": Image.new("RGB", (8, 8))})])
    assert decode(api_server.asked[0].payload["messages"][0]["content"][0]).format == "JPEG"
    assert (backend.identity["image_format"], backend.identity["jpeg_quality"]) == ("JPEG", 30)
    monkeypatch.setenv("LMMS_IMAGE_ENCODE_FORMAT", "tga")
    with pytest.raises(EvaluationError, match="LMMS_IMAGE_ENCODE_FORMAT"):
        load(api_server)


def test_an_image_that_is_too_large_is_scaled_down(api_server: JudgeHandle) -> None:
    noise = Image.effect_noise((256, 256), 80)
    answers(load(api_server, max_size_in_mb=0.05), [ask("Q", {"type": "image", "url": noise})])
    url = api_server.asked[0].payload["messages"][0]["content"][0]["image_url"]["url"]
    assert len(base64.b64decode(url.partition(",")[2])) <= 0.05 * 1024 * 1024
    assert decode(api_server.asked[0].payload["messages"][0]["content"][0]).width < 256


def test_a_system_prompt_is_put_first_unless_there_is_one(api_server: JudgeHandle, tmp_path: Any) -> None:
    (tmp_path / "prompt.txt").write_text("Be brief.\n")
    backend = load(api_server, system_prompt=str(tmp_path / "prompt.txt"))
    own = GenerationRequest([{"role": "system", "content": [{"type": "text", "text": "Mine"}]}, *ask().messages], {})
    answers(backend, [ask()])
    answers(backend, [own])
    assert [asked.payload["messages"][0] for asked in api_server.asked] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Mine"},
    ]
    assert backend.identity["system_prompt"] == "Be brief."


def test_a_broken_image_fails_alone(api_server: JudgeHandle, digit_images: list[bytes]) -> None:
    requests = [ask("Q", {"type": "image", "url": data}) for data in (digit_images[0], digit_images[1][:40])]
    sound, broken = answers(load(api_server), requests)
    assert sound.text == "answer to Q"
    assert "cannot be decoded" in str(broken.error)
    assert len(api_server.asked) == 1


def test_the_identity_holds_what_answers_depend_on_and_no_secret(api_server: JudgeHandle) -> None:
    secret = api_server.url.replace("http://", "http://user:pa55@")
    backend = load(api_server, base_url=f"{secret}?key=pa55", extra_headers={"X-Token": "pa55"}, max_new_tokens=9)
    text = json.dumps(backend.identity)
    assert "pa55" not in text
    assert KEY not in text
    assert backend.identity["base_url"] == api_server.url
    assert (backend.identity["model_version"], backend.identity["max_new_tokens"]) == ("m", 9)


def test_addresses_and_keys_come_from_the_environment(api_server: JudgeHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match="OPENAI_API_KEY"):
        registry.create("openai", {"model_version": "m"}, device="cpu")
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    monkeypatch.setenv("OPENAI_API_BASE", f"{api_server.url}/chat/completions")
    for name in ("openai", "async_openai", "openai_compatible", "async_openai_compatible_chat"):
        backend = registry.create(name, {"pretrained": "m"}, device="cpu")
        answers(backend, [ask()])  # type: ignore[arg-type]
    assert {asked.headers["Authorization"] for asked in api_server.asked} == {"Bearer from-environment"}
    assert len(api_server.asked) == 4


def test_azure_has_its_own_address_and_key(api_server: JudgeHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-key")
    monkeypatch.setenv("AZURE_OPENAI_API_BASE", api_server.url.removesuffix("/v1"))
    monkeypatch.setenv("AZURE_OPENAI_API_VERSION", "2024-06-01")
    backend = registry.create("openai", {"model": "gpt-4o", "azure_openai": True}, device="cpu")
    answers(backend, [ask()])  # type: ignore[arg-type]
    assert api_server.asked[0].path == "/openai/deployments/gpt-4o/chat/completions?api-version=2024-06-01"
    assert api_server.asked[0].headers["api-key"] == "azure-key"


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
def test_values_out_of_range_are_named(api_server: JudgeHandle, name: str, value: float) -> None:
    with pytest.raises(EvaluationError, match=name):
        load(api_server, **{name: value})

"""Videos and recordings on their way to a server that speaks OpenAI's API."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

pytest.importorskip("lmms_eval_grpc.engine.data.media.cache")

from lmms_eval_grpc.engine.data.media.cache import media_cache
from lmms_eval_grpc.engine.data.media.images import MediaError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.openai.backend import BUILDERS
from lmms_eval_grpc.engine.models.openai.conversation import to_api_messages
from lmms_eval_grpc.engine.models.openai.media import encode_image
from lmms_eval_grpc.engine.models.openai.options import RequestOptions, read_requests
from lmms_eval_grpc.engine.models.openai.parameters import read_parameters
from lmms_eval_grpc.engine.models.openai.payloads import PayloadGate, media_bytes
from tests.support.api_requests import answers, ask, load
from tests.support.judge_server import JudgeHandle, Reply, question
from tests.support.media_files import number_in, sine, write_video


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LMMS_EVAL_GRPC_MEDIA_CACHE", "off")
    media_cache.cache_clear()
    yield
    media_cache.cache_clear()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of 25 numbered frames each."""
    place = tmp_path_factory.mktemp("videos") / "numbered.mp4"
    write_video(place, 100)
    return place


def options(**model_args: Any) -> RequestOptions:
    entry = registry.resolve("async_openai")
    assert entry is not None
    return read_requests(entry.fill_in({"model": "m", **model_args}))


def converted(item: dict[str, Any], chosen: RequestOptions) -> list[dict[str, Any]]:
    (message,) = to_api_messages([{"role": "user", "content": [item, {"type": "text", "text": "Q"}]}], chosen)
    assert message["content"][-1] == {"type": "text", "text": "Q"}
    items: list[dict[str, Any]] = message["content"][:-1]
    return items


def picture(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["image_url"]["url"].partition(",")[2])))


def numbers(items: list[dict[str, Any]]) -> list[int]:
    return [number_in(np.asarray(picture(item))) for item in items if item["type"] == "image_url"]


def test_a_video_is_sent_as_frames_spread_evenly(video: Path) -> None:
    items = converted({"type": "video", "url": str(video)}, options(max_frames_num=4))
    assert numbers(items) == [0, 33, 66, 99]
    assert len(items) == 4


def test_frames_are_taken_by_the_second_and_between_two_times(video: Path) -> None:
    item = {"type": "video", "url": str(video), "start_time": 2.0, "end_time": 3.0}
    found = numbers(converted(item, options(fps=4)))
    assert len(found) == 4
    assert min(found) >= 50
    assert max(found) <= 75
    assert len(numbers(converted({"type": "video", "url": str(video)}, options(fps=10, max_frames=6)))) == 6


def test_frames_are_scaled_to_the_bounds(video: Path) -> None:
    items = converted({"type": "video", "url": str(video)}, options(nframes=2, max_pixels=2000))
    assert all(picture(item).width * picture(item).height <= 2000 for item in items)
    items = converted({"type": "video", "url": str(video)}, options(nframes=2, min_pixels=40_000))
    assert all(picture(item).width * picture(item).height >= 40_000 for item in items)


def test_qwen3_vl_is_told_the_time_of_each_frame(video: Path) -> None:
    items = converted({"type": "video", "url": str(video)}, options(nframes=2, is_qwen3_vl=True))
    assert [item.get("text") for item in items] == ["<0.0 seconds>", None, "<4.0 seconds>", None]


def test_the_address_of_a_video_may_be_sent_instead(video: Path) -> None:
    chosen = options(pass_video_url=True, nframes=5)
    assert converted({"type": "video", "url": str(video)}, chosen) == [
        {"type": "video_url", "video_url": {"url": video.as_uri()}}
    ]
    remote = {"type": "video", "url": "https://example.com/a.mp4"}
    assert converted(remote, chosen)[0]["video_url"] == {"url": "https://example.com/a.mp4"}
    assert read_parameters({}, chosen).extra == {"media_io_kwargs": {"video": {"num_frames": 5}}}


def test_sound_is_sent_as_wav_in_one_channel() -> None:
    stereo = np.stack([sine(440, 0.5, 48_000), sine(440, 0.5, 48_000)], axis=1)
    (item,) = converted({"type": "audio", "url": {"array": stereo, "sampling_rate": 48_000}}, options())
    assert (item["type"], item["input_audio"]["format"]) == ("input_audio", "wav")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(item["input_audio"]["data"])))
    assert (rate, samples.shape) == (16_000, (8000,))
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(440, abs=2)


def test_a_part_of_a_recording_is_sent_alone(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(440, 3.0, 16_000), 16_000)
    item = {"type": "audio", "url": str(tmp_path / "a.wav"), "start_time": 1.0, "end_time": 1.5}
    (sent,) = converted(item, options())
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sent["input_audio"]["data"])), dtype="float32")
    assert (rate, len(samples)) == (16_000, 8000)
    assert np.abs(samples - sine(440, 3.0, 16_000)[16_000:24_000]).max() < 1e-3


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone\.mp4"):
        converted({"type": "video", "url": str(tmp_path / "gone.mp4")}, options())


def test_requests_with_large_media_are_built_as_others_are_answered(
    api_server: JudgeHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty requests of which two fill the memory: never many more than those that build wait for an answer."""
    image = Image.effect_noise((128, 128), 90).convert("RGB")
    size = len(encode_image(image, options()))
    monkeypatch.setenv("LMMS_EVAL_GRPC_DECODE_GIB", str(2 * size / 2**30))
    held: list[int] = []
    original = PayloadGate.hold

    def hold(gate: PayloadGate, messages: Any) -> Any:
        held.append(gate.held + media_bytes(messages))
        return original(gate, messages)

    monkeypatch.setattr(PayloadGate, "hold", hold)
    # Late, so that requests pile up if they can.
    api_server.answer = lambda asked: Reply(f"answer to {question(asked)}", delay=0.05)
    backend = load(api_server, num_concurrent=16, adaptive_concurrency=False)
    found = answers(backend, [ask(str(number), {"type": "image", "url": image}) for number in range(20)])
    assert [response.text for response in found] == [f"answer to {number}" for number in range(20)]
    assert size <= max(held) <= (2 + BUILDERS) * size

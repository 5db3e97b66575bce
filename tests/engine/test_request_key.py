"""Which requests are the same to the response cache: by what is in them, wherever it lies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmms_eval_grpc.engine.models.protocol import GenerationRequest, LoglikelihoodRequest
from lmms_eval_grpc.engine.models.sampling import samples, samples_unless_told
from lmms_eval_grpc.engine.run.request_key import request_key

IDENTITY = {"weights_digest": "abc", "dtype": "float32"}


def key(medium: Any = None, kind: str = "image", identity: dict[str, str] = IDENTITY, **generation: Any) -> str | None:
    """Of a request with this medium, if any."""
    content: list[dict[str, Any]] = [] if medium is None else [{"type": kind, "url": medium}]
    message = {"role": "user", "content": [*content, {"type": "text", "text": "What is it?"}]}
    return request_key(GenerationRequest([message], {"max_new_tokens": 4, **generation}), identity)


def picture(colour: str = "red", mode: str = "RGB", size: tuple[int, int] = (4, 3)) -> Image.Image:
    return Image.new("RGB", size, colour).convert(mode)


def encoded(image: Image.Image, form: str = "png", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def test_pictures_count_by_their_pixels() -> None:
    assert key(picture()) == key(picture())
    others = [picture("blue"), picture(size=(3, 4)), picture(mode="L"), picture(mode="RGBA"), picture(mode="P")]
    assert len({key(picture()), *(key(other) for other in others)}) == 6
    assert key(picture()) is not None


def test_pictures_that_differ_in_their_palette_or_their_orientation_differ() -> None:
    one, other = picture("red", "P"), picture("red", "P")
    other.putpalette([9, 9, 9] * 256)
    assert key(one) != key(other)
    exif = Image.Exif()
    exif[0x0112] = 6
    square = picture(size=(4, 4))
    turned, upright = (Image.open(io.BytesIO(encoded(square, exif=given))) for given in (exif, Image.Exif()))
    assert turned.tobytes() == upright.tobytes()
    assert key(turned) != key(upright)


def test_files_count_by_their_content(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("one.mp4", "copy.mp4", "other.mp4"))
    one.write_bytes(b"frames")
    copy.write_bytes(b"frames")
    other.write_bytes(b"framez")
    assert key(str(one), "video") == key(copy, "video") == key(f"file://{copy}", "video") == key(b"frames", "video")
    assert key(one, "video") != key(other, "video")
    assert key(one, "video") != key(one, "audio")
    before = key(one, "video")
    one.write_bytes(b"framez")
    assert key(one, "video") not in (None, before)


def test_sound_counts_by_its_samples_and_its_rate() -> None:
    def sound(value: float, rate: int = 16000, kind: str = "float32") -> dict[str, Any]:
        return {"array": np.full(8, value, kind), "sampling_rate": rate, "path": None}

    assert key(sound(0.5), "audio") == key(sound(0.5), "audio")
    others = [sound(0.25), sound(0.5, 8000), sound(0.5, kind="float64")]
    assert len({key(sound(0.5), "audio"), *(key(other, "audio") for other in others)}) == 4


@pytest.mark.parametrize(
    "medium",
    [
        "https://example.com/cat.png",
        object(),
        np.array([object()]),
        Path(__file__).parent,
        Image.open(io.BytesIO(encoded(Image.effect_noise((64, 64), 50))[:2000])),
    ],
    ids=["network address", "unknown object", "array of objects", "folder", "broken picture"],
)
def test_what_cannot_be_told_by_content_has_no_key(medium: Any) -> None:
    assert key(medium) is None
    assert key({"nested": [medium]}) is None


def test_everything_that_an_answer_depends_on_is_in_the_key() -> None:
    def of(text: str = "a", role: str = "user", **generation: Any) -> str | None:
        return request_key(
            GenerationRequest([{"role": role, "content": [{"type": "text", "text": text}]}], generation), {}
        )

    likelihood = [
        request_key(LoglikelihoodRequest([{"role": "user", "content": [{"type": "text", "text": "a"}]}], choice), {})
        for choice in ("x", "y")
    ]
    keys = [of(), of("b"), of(role="system"), of(max_new_tokens=3), of(until=["\n"]), of(top_k=1), *likelihood]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert of(temperature=0.0, until="\n", top_p=None) == of(until=["\n"], temperature=0)
    assert key(identity={"weights_digest": "abd"}) != key(identity=IDENTITY)


@pytest.mark.parametrize("sampling", [{"temperature": 0.1}, {"do_sample": True}, {"n": 2}, {"best_of": 3}])
def test_arguments_that_sample_are_known(sampling: dict[str, Any]) -> None:
    assert samples(sampling)
    assert samples_unless_told(sampling)
    assert not samples({})
    assert samples_unless_told({})
    for greedy in ({"temperature": 0}, {"do_sample": False}):
        assert not samples(greedy)
        assert not samples_unless_told(greedy)


def test_a_message_may_be_plain_text_and_a_text_may_look_like_a_path() -> None:
    request = GenerationRequest([{"role": "user", "content": __file__}], {})
    assert request_key(request, {}) == request_key(GenerationRequest([{"role": "user", "content": __file__}], {}), {})
    assert request_key(request, {}) is not None

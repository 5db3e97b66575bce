"""Images and messages: what a backend makes of what tasks hand in."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmms_eval_grpc.engine.data.media.images import MediaError, fit_pixels, load_image
from lmms_eval_grpc.engine.models.huggingface.conversation import MessageError, to_conversation


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert load_image(Image.new(mode, (3, 2))).mode == "RGB"


def test_deep_grey_is_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.full((2, 2), 257 * 100, dtype=np.uint16))
    assert load_image(deep).getpixel((0, 0)) == (100, 100, 100)


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    palette = Image.new("RGB", (4, 4), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert load_image(png(palette, transparency=0)).getpixel((1, 1)) == (10, 200, 30)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    buffer = io.BytesIO()
    Image.new("RGB", (4, 2)).save(buffer, format="JPEG", exif=exif)
    assert load_image(buffer.getvalue()).size == (2, 4)


def test_the_same_picture_from_every_kind_of_source(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    data = png(picture)
    file = tmp_path / "a picture.png"
    file.write_bytes(data)
    sources: list[Any] = [
        picture,
        data,
        file,
        str(file),
        file.as_uri(),
        "data:image/png;base64," + base64.b64encode(data).decode(),
        np.asarray(picture),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(file)},
    ]
    for source in sources:
        assert load_image(source).tobytes() == picture.tobytes(), source


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cut.png"
    data = png(Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), dtype=np.uint8)))
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"cut\.png"):
        load_image(str(file))


@pytest.mark.parametrize("source", [b"not a picture", "/no/such/file.png", "https://example.org/a.png", 5, None])
def test_what_is_no_picture_is_an_error_in_words(source: object) -> None:
    with pytest.raises(MediaError, match="image"):
        load_image(source)


@pytest.mark.parametrize(("size", "bounds"), [((100, 50), (None, 800)), ((4, 2), (512, None)), ((9, 9), (81, 81))])
def test_pixels_are_brought_within_bounds_and_the_shape_is_kept(
    size: tuple[int, int], bounds: tuple[int | None, int | None]
) -> None:
    low, high = bounds
    fitted = fit_pixels(Image.new("RGB", size), low, high)
    pixels = fitted.width * fitted.height
    assert (low or 0) <= pixels <= (high or pixels)
    assert fitted.width / fitted.height == pytest.approx(size[0] / size[1], rel=0.1)


def test_images_leave_placeholders_in_order() -> None:
    conversation = to_conversation(
        [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image", "url": "a"},
                    {"type": "text", "text": "or"},
                    {"type": "image", "url": "b"},
                ],
            },
        ]
    )
    assert conversation.images == ["a", "b"]
    assert [item["type"] for item in conversation.messages[1]["content"]] == ["image", "text", "image"]
    assert conversation.messages[0]["content"] == [{"type": "text", "text": "Be brief."}]


def test_the_system_prompt_gives_way_to_a_system_message() -> None:
    user = {"role": "user", "content": "Hello"}
    assert to_conversation([user], "Mine").messages[0]["content"][0]["text"] == "Mine"
    own = to_conversation([{"role": "system", "content": "Theirs"}, user], "Mine").messages
    assert [message["role"] for message in own] == ["system", "user"]
    assert own[0]["content"][0]["text"] == "Theirs"


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "robot", "content": "x"}], [{"role": "user", "content": [{"type": "video", "url": "v.mp4"}]}]],
)
def test_messages_that_cannot_be_used_say_why(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(MessageError):
        to_conversation(messages)

"""Images: every kind of picture from every kind of source comes out upright, in RGB, or as an error in words."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmms_eval_grpc.engine.data.media import images
from lmms_eval_grpc.engine.data.media.images import MediaError, fit_pixels, load_image
from tests.support.task_files import png


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


def test_an_upright_picture_in_rgb_is_not_copied() -> None:
    picture = Image.new("RGB", (4, 2), (1, 2, 3))
    assert load_image(picture) is picture
    assert load_image(picture, max_pixels=8) is picture
    assert load_image(picture, max_pixels=2).size == (2, 1)
    turned = Image.new("RGB", (4, 2))
    turned.getexif()[0x0112] = 6
    assert load_image(turned).size == (2, 4)
    assert turned.size == (4, 2)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cut.png"
    data = png(Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), dtype=np.uint8)))
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"cut\.png"):
        load_image(str(file))


@pytest.mark.parametrize("format_name", ["JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_half_a_file_of_any_format_is_named(tmp_path: Path, format_name: str) -> None:
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), dtype=np.uint8))
    file = tmp_path / "half.img"
    noise.save(file, format=format_name)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"half\.img"):
        load_image(file)


def test_printers_colours_of_a_jpeg() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK").save(buffer, format="JPEG", quality=95)
    assert load_image(buffer.getvalue()).getpixel((8, 8)) == pytest.approx((200, 40, 90), abs=4)


def test_deep_grey_files_are_scaled(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((2, 2), 257 * 100, dtype=np.uint16))
    for name in ("a.png", "a.tiff"):
        deep.save(tmp_path / name)
        assert load_image(tmp_path / name).getpixel((0, 0)) == (100, 100, 100)


def test_an_animation_shows_its_first_picture(tmp_path: Path) -> None:
    first, *rest = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for name in ("a.gif", "a.webp", "a.png"):
        first.save(tmp_path / name, save_all=True, append_images=rest, lossless=True)
        assert load_image(tmp_path / name).getpixel((1, 1)) == (250, 0, 0)


def test_an_image_beyond_pillows_own_bound_is_decoded(tmp_path: Path) -> None:
    Image.new("L", (13_400, 13_400), 200).save(tmp_path / "huge.jpg")  # Pillow refuses from 179 million pixels
    small = load_image(tmp_path / "huge.jpg", max_pixels=10_000)
    assert small.size == (100, 100)
    assert small.getpixel((50, 50)) == (200, 200, 200)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = struct.pack(">4sIIBBBBB", b"IHDR", 30_000, 20_000, 1, 0, 0, 0, 0)
    content = bytearray(png(Image.new("1", (3, 2))))
    content[12:33] = header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(MediaError, match=r"bomb\.png' has 30000 × 20000 pixels, more than the 536870912"):
        load_image(tmp_path / "bomb.png")


def test_a_huge_jpeg_looks_the_same_decoded_at_a_fraction_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    picture = Image.fromarray(
        np.stack([np.tile(ramp, (512, 1)), np.full((512, 1024), 90, np.uint8)] * 2, axis=-1)[..., :3]
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "huge.jpg", exif=exif, quality=95)
    in_full = load_image(tmp_path / "huge.jpg", max_pixels=5000)
    drafts = []
    monkeypatch.setattr(images, "_HUGE_PIXELS", 1000)
    original = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda image: (drafts.append(image.size), original(image))[1])
    reduced = load_image(tmp_path / "huge.jpg", max_pixels=5000)
    assert drafts[0] == (256, 128)  # a quarter: still more than twice what is wanted
    assert reduced.size == in_full.size == (50, 100)
    assert np.abs(np.asarray(reduced).astype(int) - np.asarray(in_full)).max() <= 6


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

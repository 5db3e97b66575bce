"""From whatever a message names as an image to an upright RGB picture of a bounded size."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from lmms_eval_grpc.engine.data.media.errors import MediaError, describe
from lmms_eval_grpc.engine.data.media.sources import locate

__all__ = ["MediaError", "fit_frame", "fit_pixels", "load_image"]


MAX_IMAGE_PIXELS = 1 << 29
"""Width × height of the largest image that is decoded: 1.5 GiB as RGB. More is taken for an attack or a mistake."""

# Pillow refuses twice its own bound, which maps and scans exceed; above ours nothing gets as far as its check.
Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS

_ORIENTATION = ExifTags.Base.Orientation
_HUGE_PIXELS = 1 << 26
"""From here on a JPEG is decoded at a fraction of its size where more would be thrown away."""


def load_image(source: Any, max_pixels: int | None = None) -> Image.Image:
    """Decodes ``source`` completely and returns it upright (EXIF orientation applied) and in RGB.

    A PIL image that is so already is returned itself, not a copy.

    ``source`` is a PIL image, a path, a ``file:`` or ``data:`` URL, encoded bytes, an array (height × width, or
    height × width × 1, 3 or 4, 8-bit), or a mapping with ``bytes`` or ``path`` as ``datasets`` stores undecoded
    images. Of an animation it is the first picture.

    ``max_pixels`` scales the image down to as many, as :func:`fit_pixels` does. Raises :class:`MediaError` for
    anything that is not a whole image, and for one of more than :data:`MAX_IMAGE_PIXELS`.
    """
    if type(source) is Image.Image and _is_ready(source, max_pixels):
        return source
    try:
        image = _open(source)
        try:
            picture = fit_pixels(_decode(image, describe(source), max_pixels), None, max_pixels)
            return image.copy() if picture is image and image is not source else picture
        finally:
            if image is not source:
                image.close()  # an animation would keep its file open
    except MediaError:
        raise
    # Pillow's decoders raise OSError for truncated data, but also ValueError, SyntaxError, EOFError and others.
    except Exception as error:
        raise MediaError(f"image {describe(source)} cannot be decoded: {error}") from error


def _is_ready(image: Image.Image, max_pixels: int | None) -> bool:
    """Whether there is nothing to do to a picture that was decoded before."""
    most = MAX_IMAGE_PIXELS if max_pixels is None else min(max_pixels, MAX_IMAGE_PIXELS)
    return image.mode == "RGB" and image.width * image.height <= most and _is_upright(image)


def _is_upright(image: Image.Image) -> bool:
    return bool(image.getexif().get(_ORIENTATION, 1) == 1)


def _decode(image: Image.Image, name: str, max_pixels: int | None) -> Image.Image:
    pixels = image.width * image.height
    if pixels > MAX_IMAGE_PIXELS:
        size = f"{image.width} × {image.height}"
        raise MediaError(f"image {name} has {size} pixels, more than the {MAX_IMAGE_PIXELS} that are decoded")
    if max_pixels is not None and pixels > _HUGE_PIXELS and image.format == "JPEG":
        # At least twice as wide and high as wanted, so that the scaling after it decides what the picture looks like.
        factor = min(1.0, 2 * math.sqrt(max_pixels / pixels))
        image.draft("RGB", (math.ceil(image.width * factor), math.ceil(image.height * factor)))
    image.load()
    # Both would make a copy even where there is nothing to change, which is most of what small images cost.
    if not _is_upright(image):
        image = ImageOps.exif_transpose(image)
    return image if image.mode == "RGB" else _to_rgb(image)


def _open(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return Image.fromarray(source.squeeze(-1) if source.ndim == 3 and source.shape[-1] == 1 else source)
    if isinstance(source, Mapping):
        content = next((source[key] for key in ("bytes", "path", "url") if source.get(key) is not None), None)
        return _open(content)
    place = locate("image", source)
    return Image.open(io.BytesIO(place) if isinstance(place, bytes) else place)


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow clips deep grey images to 8 bits instead of scaling them, which turns a 16-bit scan white.
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(deep / 257.0, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        scale = 255.0 if values.size and float(values.max()) <= 1.0 else 1.0
        return Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def fit_pixels(image: Image.Image, min_pixels: int | None, max_pixels: int | None) -> Image.Image:
    """Scales the image, keeping its shape, so that width × height lies between the bounds; None: no bound."""
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels:
        factor = math.sqrt(max_pixels / pixels)
        size = (max(1, math.floor(image.width * factor)), max(1, math.floor(image.height * factor)))
    elif min_pixels is not None and pixels < min_pixels:
        factor = math.sqrt(min_pixels / pixels)
        size = (math.ceil(image.width * factor), math.ceil(image.height * factor))
    else:
        return image
    return image.resize(size, Image.Resampling.BICUBIC)


def fit_frame(frame: npt.NDArray[np.uint8], max_pixels: int | None) -> npt.NDArray[np.uint8]:
    """The frame (height × width × 3) scaled down, where need be, to ``max_pixels``."""
    if max_pixels is None or frame.shape[0] * frame.shape[1] <= max_pixels:
        return np.ascontiguousarray(frame)
    return np.asarray(fit_pixels(Image.fromarray(np.ascontiguousarray(frame)), None, max_pixels))

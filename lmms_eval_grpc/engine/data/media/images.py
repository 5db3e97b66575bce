"""From whatever a message names as an image to an upright RGB picture of a bounded size."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lmms_eval_grpc.engine.data.media.errors import MediaError, describe
from lmms_eval_grpc.engine.data.media.sources import locate

__all__ = ["MediaError", "fit_pixels", "load_image"]


def load_image(source: Any) -> Image.Image:
    """Decodes ``source`` completely and returns it upright (EXIF orientation applied) and in RGB.

    ``source`` is a PIL image, a path, a ``file:`` or ``data:`` URL, encoded bytes, an array (height × width, or
    height × width × 1, 3 or 4, 8-bit), or a mapping with ``bytes`` or ``path`` as ``datasets`` stores undecoded
    images. Raises :class:`MediaError` for anything that is not a whole image.
    """
    try:
        image = _open(source)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except MediaError:
        raise
    # Pillow's decoders raise OSError for truncated data, but also ValueError, SyntaxError, EOFError and others.
    except Exception as error:
        raise MediaError(f"image {describe(source)} cannot be decoded: {error}") from error


def _open(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return Image.fromarray(source.squeeze(-1) if source.ndim == 3 and source.shape[-1] == 1 else source)
    if isinstance(source, Mapping):
        if source.get("bytes") is not None:
            return _open(source["bytes"])
        return _open(source.get("path") or source.get("url"))
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

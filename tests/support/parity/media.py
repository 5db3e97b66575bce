"""Pictures, recordings and films that carry answers for :mod:`tests.support.parity.reader`."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import av
import numpy
import soundfile
from PIL import Image

from tests.support.parity.reader import FILM_MARK, LOUDNESS, encode

THINGS = ["a red apple", "the banana", "two dogs", "a bicycle", "green leaves", "the harbour", "a clock", "snow"]
"""What can be seen, as words."""

_SIDE = 56
"""Pixels: a multiple of what vision models cut pictures into, and enough that none is enlarged for the tiny model."""


def picture(*answers: str) -> Image.Image:
    """A grey picture whose first pixels are the answers, and the shade of the others depends on them."""
    content = encode(answers)
    height = _SIDE * math.ceil(len(content) / _SIDE**2)
    return Image.frombytes("L", (_SIDE, height), content.ljust(_SIDE * height, bytes([sum(content) % 251])))


def recording(*answers: str) -> dict[str, Any]:
    """A WAV file as a column of sound holds it."""
    stream = io.BytesIO()
    samples = numpy.frombuffer(encode(answers), dtype="uint8").astype("int16") * LOUDNESS
    soundfile.write(stream, samples, 16000, format="WAV", subtype="PCM_16")
    return {"bytes": stream.getvalue(), "path": None}


def film(path: Path, *answers: str) -> None:
    """Two frames of MP4, with the answers in a box behind them that players skip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for shade in (0, 200):
            frame = av.VideoFrame.from_ndarray(numpy.full((32, 32, 3), shade, dtype="uint8"), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = FILM_MARK + encode(answers)
    with path.open("ab") as file:
        file.write((8 + len(content)).to_bytes(4, "big") + b"free" + content)

"""Images, videos and sound as items of a chat message in OpenAI's API."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from lmms_eval_grpc.engine.data.media.images import MediaError, fit_pixels, load_image
from lmms_eval_grpc.engine.models.openai.options import RequestOptions

AUDIO_RATE = 16_000
"""Samples a second of sound that is sent: what speech models are trained on."""

_SHRINK = 0.75
_SMALLEST_SIDE = 32
_REMOTE = ("http", "https", "data")


def image_item(source: Any, options: RequestOptions) -> dict[str, Any]:
    """An image by its address on the network, or as a data URL. Raises :class:`MediaError`."""
    if isinstance(source, str) and urlsplit(source).scheme in ("http", "https"):
        return {"type": "image_url", "image_url": {"url": source}}
    return {"type": "image_url", "image_url": {"url": encode_image(load_image(source), options)}}


def video_items(item: Mapping[str, Any], options: RequestOptions) -> list[dict[str, Any]]:
    """A video as its address, or as the frames that the options choose. Raises :class:`MediaError`."""
    source = item.get("url", item.get("video"))
    if options.pass_video_url:
        return [{"type": "video_url", "video_url": {"url": _address(source)}}]
    # Late: decoding needs libraries that requests without videos do not.
    from lmms_eval_grpc.engine.data.media.budget import open_video
    from lmms_eval_grpc.engine.data.media.frames import FramePolicy

    # lmms-eval takes its frames by Qwen's reader, whatever the model.
    policy = FramePolicy(options.nframes if options.fps is None else options.max_frames, options.fps, "qwen_vl")
    items: list[dict[str, Any]] = []
    times = {"start": item.get("start_time"), "end": item.get("end_time")}
    with open_video(source, policy, **times, max_pixels=options.max_pixels) as video:
        for frame, seconds in zip(video.frames, video.timestamps, strict=True):
            if options.is_qwen3_vl:
                items.append({"type": "text", "text": f"<{seconds:.1f} seconds>"})
            fitting = fit_pixels(Image.fromarray(frame), options.min_pixels, options.max_pixels)
            items.append({"type": "image_url", "image_url": {"url": encode_image(fitting, options)}})
    return items


def audio_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """A recording as one channel of 16-bit WAV. Raises :class:`MediaError`."""
    import soundfile  # late, as above

    from lmms_eval_grpc.engine.data.media.cache import media_cache

    source = item.get("url", item.get("audio"))
    samples = media_cache().audio(source, AUDIO_RATE, start=item.get("start_time"), end=item.get("end_time"))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, AUDIO_RATE, format="WAV", subtype="PCM_16")
    return {"type": "input_audio", "input_audio": {"data": _base64(buffer.getvalue()), "format": "wav"}}


def encode_image(image: Image.Image, options: RequestOptions) -> str:
    """A data URL of at most ``max_size_in_mb``; the image is scaled down as long as it is larger."""
    limit = options.max_size_in_mb * 1024 * 1024
    kind = options.image_format
    more = {"quality": options.jpeg_quality} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    while True:
        buffer = io.BytesIO()
        image.save(buffer, kind, **more)
        if buffer.tell() <= limit:
            return f"data:image/{kind.lower()};base64,{_base64(buffer.getvalue())}"
        size = (round(image.width * _SHRINK), round(image.height * _SHRINK))
        if min(size) < _SMALLEST_SIDE:
            raise MediaError(
                f"an image of {image.width} × {image.height} pixels does not fit into max_size_in_mb ="
                f" {options.max_size_in_mb:g}"
            )
        image = image.resize(size, Image.Resampling.LANCZOS)


def _address(source: Any) -> str:
    if isinstance(source, Mapping):
        source = source.get("path") or source.get("url")
    if isinstance(source, str) and urlsplit(source).scheme in (*_REMOTE, "file"):
        return source
    if isinstance(source, str | Path):
        return Path(source).absolute().as_uri()
    raise MediaError(f"pass_video_url needs a video's path or address, not {type(source).__name__}; unset it")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

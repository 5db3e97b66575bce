"""The images, videos and recordings of one request: decoded, and in the form that its model takes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers.video_utils import VideoMetadata

from lmms_eval_grpc.engine.data.media.budget import open_video
from lmms_eval_grpc.engine.data.media.cache import media_cache
from lmms_eval_grpc.engine.data.media.images import fit_pixels
from lmms_eval_grpc.engine.data.media.video import FramePolicy, Video
from lmms_eval_grpc.engine.models.huggingface.conversation import MessageError
from lmms_eval_grpc.engine.models.huggingface.video import Frames, fit_frames
from lmms_eval_grpc.engine.models.protocol import Message

DECODED_PIXELS = 1 << 27
"""Pixels of one video's frames as they are decoded, at most, shared equally: 32 frames of 4 megapixels."""
_SAMPLES_PER_TOKEN = 640
_PIXELS_PER_TOKEN = 28 * 28
"""What becomes one token in a typical model; only sorts requests by length."""
_PIXELS_PER_SAMPLE = 4 / 3
"""The memory of a sample of sound in pixels."""


@dataclass(frozen=True, slots=True)
class Clip:
    """The chosen frames of a video, and where they come from."""

    frames: Frames
    indices: tuple[int, ...]
    """Of the frames in the whole video."""
    fps: float
    """Of the whole video."""
    total: int
    """Frames that the choice was made from."""
    patched: bool
    """Whether the model takes it in patches, of which each video may have another number."""
    fitted: bool
    """Whether the frames have the size that the model takes."""

    @property
    def sampled_fps(self) -> float:
        return len(self.indices) / self.total * self.fps

    def metadata(self) -> VideoMetadata:
        height, width = self.frames.shape[1:3]
        return VideoMetadata(
            total_num_frames=self.total,
            fps=self.fps,
            height=height,
            width=width,
            duration=self.total / self.fps,
            frames_indices=list(self.indices),
        )


@dataclass(frozen=True)
class Media:
    """What a prompt's placeholders stand for, each kind in the prompt's order."""

    images: tuple[Image.Image, ...] = ()
    videos: tuple[Clip, ...] = ()
    sounds: tuple[npt.NDArray[np.float32], ...] = ()

    @property
    def kinds(self) -> str:
        """Equal for requests that a processor takes together."""
        kinds = [name for name, found in (("images", self.images), ("sounds", self.sounds)) if found]
        # Videos that are not cut into patches are stacked, which takes equally many frames.
        kinds += sorted({"video" if video.patched else f"{len(video.frames)} frames" for video in self.videos})
        return " ".join(kinds) or "text"

    @functools.cached_property
    def pixels(self) -> int:
        """About a third of the bytes in memory."""
        shown = sum(image.width * image.height for image in self.images)
        shown += sum(video.frames.size // 3 for video in self.videos)
        return int(shown + sum(map(len, self.sounds)) * _PIXELS_PER_SAMPLE)

    @property
    def tokens(self) -> float:
        """Very roughly, for sorting."""
        heard = sum(map(len, self.sounds))
        return (self.pixels - heard * _PIXELS_PER_SAMPLE) / _PIXELS_PER_TOKEN + heard / _SAMPLES_PER_TOKEN


@dataclass(frozen=True, slots=True)
class MediaOptions:
    """What one model makes of media."""

    modalities: frozenset[str]
    policy: FramePolicy
    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None
    fit_images: bool = True
    """Whether images are brought within the bounds here; if not, the image processor does it."""
    native_video: bool = False
    """Whether the processor takes videos; if not, their frames are images."""
    images_or_video: bool = False
    """Whether it takes either, so that frames are images where a request has both."""
    patch_factor: int | None = None
    """Of processors that cut videos into patches: pixels that a frame's sides are multiples of."""
    sampling_rate: int | None = None
    longest_sound: int | None = None
    """Samples of one recording, at most; longer ones become several. None: of any length."""


class MediaReader:
    """Decodes the media of one request in the order of its messages. Made anew for each request."""

    def __init__(self, options: MediaOptions, model_type: str, messages: Sequence[Message] = ()) -> None:
        """``messages`` are those that will be read."""
        self._options = options
        self._native_video = options.native_video and not (options.images_or_video and _have_image(messages))
        self._model_type = model_type
        self._images: list[Image.Image] = []
        self._videos: list[Clip] = []
        self._sounds: list[npt.NDArray[np.float32]] = []

    @property
    def media(self) -> Media:
        return Media(tuple(self._images), tuple(self._videos), tuple(self._sounds))

    def read(self, kind: str, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The placeholders for a content item of kind image, video or audio: one, or as many as its parts.

        Raises :class:`.MessageError` for a kind that the model does not read, and what decoding raises.
        """
        if kind not in self._options.modalities:
            reads = ", ".join(sorted(self._options.modalities))
            raise MessageError(
                f"the request has {_NAMES[kind]}, but this model ({self._model_type}) reads {reads} only"
            )
        source = next((item[key] for key in ("url", kind) if item.get(key) is not None), None)
        if kind == "image":
            return self._read_image(source)
        return self._read_video(source, item) if kind == "video" else self._read_sound(source, item)

    def _read_image(self, source: Any) -> list[dict[str, Any]]:
        image = media_cache().image(source, self._options.max_pixels if self._options.fit_images else None)
        self._images.append(self._fit(image))
        return [{"type": "image"}]

    def _fit(self, image: Image.Image) -> Image.Image:
        options = self._options
        return fit_pixels(image, options.min_pixels, options.max_pixels) if options.fit_images else image

    def _read_video(self, source: Any, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        options, policy = self._options, self._options.policy
        start, end = item.get("start_time"), item.get("end_time")
        share = DECODED_PIXELS // (policy.max_num_frames or _MOST_FRAMES)
        bound = max(share, options.max_pixels or 0)
        with open_video(source, policy, start=start, end=end, max_pixels=bound) as video:
            if self._native_video:
                self._videos.append(self._make_clip(video, _count_frames(video, start, end)))
                return [{"type": "video"}]
            self._images += [self._fit(Image.fromarray(frame)) for frame in video.frames]
            return [{"type": "image"} for _ in video.frames]

    def _make_clip(self, video: Video, total: int) -> Clip:
        """``total``: frames that the choice was made from."""
        options = self._options
        bounded = any((options.min_pixels, options.max_pixels, options.total_pixels))
        frames, fitted = video.frames, False
        if options.patch_factor is not None and bounded:
            frames = fit_frames(
                frames, options.patch_factor, options.min_pixels, options.max_pixels, options.total_pixels
            )
            fitted = True
        patched = options.patch_factor is not None
        return Clip(frames, video.indices, video.fps, total, patched, fitted)

    def _read_sound(self, source: Any, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        options = self._options
        assert options.sampling_rate is not None
        start, end = item.get("start_time"), item.get("end_time")
        samples = media_cache().audio(source, options.sampling_rate, start=start, end=end)
        size = options.longest_sound or len(samples)
        parts = [samples[first : first + size] for first in range(0, len(samples), size)]
        self._sounds += parts
        # Some templates look for the key and not for the type.
        return [{"type": "audio", "audio": None} for _ in parts]


_NAMES = {"image": "an image", "video": "a video", "audio": "audio"}
_MOST_FRAMES = 768


def _have_image(messages: Sequence[Message]) -> bool:
    contents = [message.get("content") or () for message in messages]
    return any(item.get("type") == "image" for content in contents if not isinstance(content, str) for item in content)


def _count_frames(video: Video, start: float | None, end: float | None) -> int:
    """Frames of the part between ``start`` and ``end`` (seconds)."""
    if start is None and end is None:
        return video.total_frames
    seconds = (video.duration if end is None else min(end, video.duration)) - max(start or 0.0, 0.0)
    return max(len(video.indices), min(video.total_frames, round(seconds * video.fps)))

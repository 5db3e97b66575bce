"""Decoded media, kept: each is decoded once, however many questions, tasks, jobs and processes ask for it.

On disk are the chosen frames of videos and resampled audio, in a bounded folder that all processes share; images,
which decode about as fast as they could be read back, stay in this process's memory for a while, as the questions
about one image follow each other.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from lmms_eval_grpc.engine.data.digest import digest_value
from lmms_eval_grpc.engine.data.folders import datasets_cache, hugging_face_home
from lmms_eval_grpc.engine.data.media import environment
from lmms_eval_grpc.engine.data.media.array_store import ArrayStore
from lmms_eval_grpc.engine.data.media.audio import Samples, load_audio
from lmms_eval_grpc.engine.data.media.digest import media_digest
from lmms_eval_grpc.engine.data.media.images import load_image
from lmms_eval_grpc.engine.data.media.video import (
    FramePolicy,
    Video,
    decoder_version,
    installed_versions,
    load_video,
)

_FORMAT = 1  # raised when decoding changes, so that entries of before are not found
_AUDIO_LIBRARIES = ("soundfile", "soxr", "av")
_GIB = 1 << 30
_USUAL_MEMORY_BYTES = _GIB // 4

Medium = TypeVar("Medium")


class MediaCache:
    """Loads media as :func:`load_video`, :func:`load_audio` and :func:`load_image` do. For any number of threads."""

    def __init__(self, store: ArrayStore | None, memory_bytes: int = _USUAL_MEMORY_BYTES) -> None:
        """``store`` None: nothing is kept on disk. ``memory_bytes`` bounds the images in memory; 0: none."""
        self._store = store
        self._memory_bytes = memory_bytes
        self._images: OrderedDict[str, Image.Image] = OrderedDict()
        self._images_bytes = 0
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[Any]] = {}

    def video(
        self,
        source: Any,
        policy: FramePolicy,
        *,
        start: float | None = None,
        end: float | None = None,
        max_pixels: int | None = None,
    ) -> Video:
        """As :func:`load_video`. The frames must not be written to."""
        decode = functools.partial(load_video, source, policy, start=start, end=end, max_pixels=max_pixels)
        if self._store is None:
            return decode()
        backend = environment.decode_backend()
        how = [dataclasses.asdict(policy), start, end, max_pixels, backend, decoder_version(backend)]
        return self._once(_key("video", source, how), decode, self._stored_video, self._store_video)

    def audio(
        self, source: Any, sampling_rate: int, *, start: float | None = None, end: float | None = None
    ) -> Samples:
        """As :func:`load_audio`. The samples must not be written to."""
        decode = functools.partial(load_audio, source, sampling_rate, start=start, end=end)
        if self._store is None:
            return decode()
        key = _key("audio", source, [sampling_rate, start, end, installed_versions(_AUDIO_LIBRARIES)])
        return self._once(key, decode, self._stored_audio, self._store_audio)

    def image(self, source: Any, max_pixels: int | None = None) -> Image.Image:
        """As :func:`load_image`. The picture must not be written to."""
        if self._memory_bytes == 0 or isinstance(source, Image.Image):
            return load_image(source, max_pixels)
        decode = functools.partial(load_image, source, max_pixels)
        return self._once(_key("image", source, [max_pixels]), decode, self._kept_image, self._keep_image)

    def _once(
        self,
        key: str,
        decode: Callable[[], Medium],
        find: Callable[[str], Medium | None],
        keep: Callable[[str, Medium], None],
    ) -> Medium:
        """What is kept under ``key``, else decoded and kept; threads that want the same wait for the first of them."""
        with self._lock:
            ahead = self._under_way.get(key)
            if ahead is None:
                mine: Future[Medium] = Future()
                self._under_way[key] = mine
        if ahead is not None:
            medium: Medium = ahead.result()
            return medium
        try:
            found = find(key)
            if found is None:
                found = decode()
                keep(key, found)
            mine.set_result(found)
            return found
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._under_way[key]

    def _stored_video(self, key: str) -> Video | None:
        entry = self._store.get(key) if self._store else None
        if entry is None:
            return None
        arrays, notes = entry
        times, indices = tuple(notes["timestamps"]), tuple(notes["indices"])
        return Video(arrays["frames"], times, notes["fps"], notes["duration"], indices, notes["total_frames"])

    def _store_video(self, key: str, video: Video) -> None:
        notes = {field.name: getattr(video, field.name) for field in dataclasses.fields(video)}
        if self._store:
            self._store.put(key, {"frames": notes.pop("frames")}, notes)

    def _stored_audio(self, key: str) -> Samples | None:
        entry = self._store.get(key) if self._store else None
        return None if entry is None else entry[0]["samples"]

    def _store_audio(self, key: str, samples: Samples) -> None:
        if self._store:
            self._store.put(key, {"samples": samples}, {})

    def _kept_image(self, key: str) -> Image.Image | None:
        with self._lock:
            image = self._images.get(key)
            if image is not None:
                self._images.move_to_end(key)
            return image

    def _keep_image(self, key: str, image: Image.Image) -> None:
        with self._lock:
            self._images[key] = image
            self._images_bytes += _bytes_of(image)
            while self._images_bytes > self._memory_bytes:
                _, oldest = self._images.popitem(last=False)
                self._images_bytes -= _bytes_of(oldest)


@functools.cache
def media_cache() -> MediaCache:
    """The cache of this process, as the environment says.

    ``$LMMS_EVAL_GRPC_MEDIA_CACHE`` is its folder, or ``off``; by default ``lmms_eval_grpc_media`` in the datasets
    cache. ``$LMMS_EVAL_GRPC_MEDIA_CACHE_GIB`` bounds it, by default 16. Raises ValueError for another number.
    """
    max_bytes, folder = environment.cache_bytes(), environment.cache_folder()
    if folder == "off" or max_bytes == 0:
        return MediaCache(None)
    return MediaCache(ArrayStore(Path(folder) if folder else _usual_folder(), max_bytes))


def _usual_folder() -> Path:
    usual = Path(os.environ.get("HF_DATASETS_CACHE") or hugging_face_home() / "datasets")
    return (datasets_cache() or usual) / "lmms_eval_grpc_media"


def _key(kind: str, source: Any, how: list[Any]) -> str:
    return digest_value([_FORMAT, media_digest(kind, source), how])


def _bytes_of(image: Image.Image) -> int:
    return int(image.width * image.height * 3)

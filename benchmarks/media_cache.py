"""What decoding costs and what the cache of decoded media saves. All times are seconds, the best of several.

Makes its own videos and recordings in a temporary folder, decodes each, and reads each back from a cache.

    python benchmarks/media_cache.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from lmms_eval_grpc.engine.data.media.array_store import ArrayStore
from lmms_eval_grpc.engine.data.media.audio import load_audio
from lmms_eval_grpc.engine.data.media.cache import MediaCache
from lmms_eval_grpc.engine.data.media.images import load_image
from lmms_eval_grpc.engine.data.media.video import FramePolicy, load_video

RUNS = 3
FPS = 25


def main() -> int:
    print("| | decoded | from the cache | kept |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = MediaCache(ArrayStore(folder / "cache", 1 << 34))
        for width, height, seconds in ((1280, 720, 60), (640, 360, 180)):
            file = folder / f"{height}.mp4"
            write_video(file, width, height, seconds)
            whole = best(lambda file=file: decode_all(file))
            report(f"{height}p H.264, {seconds} s: every frame, as read without seeking", whole, None, None)
            for count, max_pixels in ((8, None), (32, None), (32, 448 * 448)):
                policy = FramePolicy(count)
                decoded = best(lambda f=file, p=policy, m=max_pixels: load_video(f, p, max_pixels=m))
                frames = cache.video(file, policy, max_pixels=max_pixels).frames
                found = best(lambda f=file, p=policy, m=max_pixels: cache.video(f, p, max_pixels=m))
                fitted = f", at most {max_pixels} pixels each" if max_pixels else ""
                report(f"{height}p H.264, {seconds} s: {count} frames{fitted}", decoded, found, frames.nbytes)
        for seconds, rate, ending in ((10, 44100, "flac"), (30, 44100, "mp3"), (600, 44100, "flac")):
            file = folder / f"{seconds}.{ending}"
            walk = np.random.default_rng(0).normal(scale=0.01, size=(seconds * rate, 2)).cumsum(axis=0)
            soundfile.write(file, np.sin(walk) * 0.5, rate)
            decoded = best(lambda f=file: load_audio(f, 16000))
            samples = cache.audio(file, 16000)
            found = best(lambda f=file: cache.audio(f, 16000))
            report(f"{seconds} s of stereo {ending} at 44.1 kHz to 16 kHz", decoded, found, samples.nbytes)
        file = folder / "picture.jpg"
        noise = np.random.default_rng(0).integers(0, 255, (135, 240, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((1920, 1080)).save(file)
        decoded = best(lambda: load_image(file))
        picture = cache.image(file)
        report("1080p JPEG (in memory)", decoded, best(lambda: cache.image(file)), len(picture.tobytes()))
    return 0


def write_video(file: Path, width: int, height: int, seconds: int) -> None:
    """A window that moves over a picture of large random blocks."""
    blocks = np.random.default_rng(0).integers(0, 255, (height // 8 + 101, width // 8 + 101, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(seconds * FPS):
            top, left = number % 800, 2 * number % 800
            window = np.ascontiguousarray(picture[top : top + height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="rgb24")))
        container.mux(stream.encode())


def decode_all(file: Path) -> int:
    with av.open(str(file)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def best(action: Callable[[], Any]) -> float:
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)


def report(what: str, decoded: float, found: float | None, size: int | None) -> None:
    kept = "" if size is None else f"{size / 2**20:.1f} MiB"
    print(f"| {what} | {decoded:.3f} | {'' if found is None else f'{found:.4f}'} | {kept} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())

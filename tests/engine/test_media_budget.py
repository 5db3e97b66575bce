"""The memory of decoded videos: estimated before decoding, and shared by all who decode at the same time."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmms_eval_grpc.engine.data.media import budget, cache
from lmms_eval_grpc.engine.data.media.budget import ByteBudget, open_video
from lmms_eval_grpc.engine.data.media.errors import MediaError
from lmms_eval_grpc.engine.data.media.estimate import estimate_bytes
from lmms_eval_grpc.engine.data.media.video import FramePolicy, load_video
from lmms_eval_grpc.engine.data.media.video_dali import PART_BYTES, split
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.huggingface.media import MediaOptions, MediaReader
from lmms_eval_grpc.engine.models.openai.media import video_items
from lmms_eval_grpc.engine.models.openai.options import read_requests
from tests.support.media_files import numbered_frame, write_video

NINE = FramePolicy(9)
ONE_VIDEO = 9 * numbered_frame(0).size
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LMMS_EVAL_GRPC_MEDIA_CACHE", "off")
    cache.media_cache.cache_clear()
    yield
    cache.media_cache.cache_clear()


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    places = [tmp_path / f"{number}.mp4" for number in range(4)]
    for place in places:
        write_video(place, 30)
    return places


@dataclass
class Decodes:
    """Real decodes, counted while their frames are held."""

    most: int = 0
    now: int = 0


def watched(
    monkeypatch: pytest.MonkeyPatch, limit: int, read: Callable[[Path], Any], videos: list[Path], meet: int
) -> Decodes:
    """Reads all videos at the same time within ``limit`` bytes. ``meet`` of them wait for each other when decoded."""
    seen, lock, together = Decodes(), threading.Lock(), threading.Barrier(meet)

    def load(*arguments: Any, **options: Any) -> Any:
        with lock:
            seen.now += 1
            seen.most = max(seen.most, seen.now)
        try:
            video = load_video(*arguments, **options)
            together.wait(PATIENCE)
            return video
        finally:
            with lock:
                seen.now -= 1

    shared = ByteBudget(limit)
    monkeypatch.setattr(cache, "load_video", load)
    monkeypatch.setattr(budget, "decode_budget", lambda: shared)
    with ThreadPoolExecutor(len(videos)) as pool:
        list(pool.map(read, videos))
    return seen


def by_huggingface(place: Path) -> None:
    options = MediaOptions(frozenset({"text", "image", "video"}), NINE)
    reader = MediaReader(options, "llava")
    assert len(reader.read("video", {"type": "video", "url": place})) == 9
    assert len(reader.media.images) == 9


def by_openai(place: Path) -> None:
    entry = registry.resolve("openai")
    assert entry is not None
    options = read_requests(entry.fill_in({"model": "m", "nframes": 9}))
    assert len(video_items({"type": "video", "url": str(place)}, options)) == 8  # an even number, as Qwen's reader


@pytest.mark.parametrize("read", [by_huggingface, by_openai])
@pytest.mark.parametrize(("room", "at_once"), [(1, 1), (2.5, 2), (0.1, 1), (10, 4)])
def test_no_more_videos_are_decoded_at_once_than_there_is_room_for(
    videos: list[Path], monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any], room: float, at_once: int
) -> None:
    size = ONE_VIDEO if read is by_huggingface else ONE_VIDEO // 9 * 8
    seen = watched(monkeypatch, int(room * size), read, videos, meet=at_once)
    assert (seen.most, seen.now) == (at_once, 0)


def test_a_broken_video_gives_its_room_back(videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shared = ByteBudget(ONE_VIDEO)
    monkeypatch.setattr(budget, "decode_budget", lambda: shared)
    videos[0].write_bytes(videos[0].read_bytes()[:600])
    for place in videos:
        try:
            with open_video(place, NINE) as video:
                assert len(video.frames) == 9
        except MediaError:
            assert place == videos[0]
    with shared.hold(ONE_VIDEO):
        pass


def test_a_large_wish_is_not_passed_over_by_small_ones() -> None:
    shared, order = ByteBudget(10), []
    waiting = [threading.Event(), threading.Event()]

    def want(name: str, size: int) -> None:
        with shared.hold(size):
            order.append(name)

    with ThreadPoolExecutor(2) as pool:
        with shared.hold(6):
            large = pool.submit(want, "large", 9)
            while len(shared._queue) < 1:
                waiting[0].wait(0.01)
            small = pool.submit(want, "small", 2)  # would fit beside the six
            while len(shared._queue) < 2:
                waiting[1].wait(0.01)
        large.result(PATIENCE)
        small.result(PATIENCE)
    assert order == ["large", "small"]


POLICIES = [
    NINE,
    FramePolicy(None),
    FramePolicy(None, 5.0, "fps"),
    FramePolicy(None, 2.0, "qwen_vl"),
    FramePolicy(4, sampling="segments"),
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_the_estimate_is_what_comes_out(tmp_path: Path, name: str, policy: FramePolicy) -> None:
    write_video(tmp_path / name, 60)
    for more in ({}, {"start": 0.5, "end": 1.5}, {"end": 1.0}, {"max_pixels": 2000}):
        video = load_video(tmp_path / name, policy, **more)
        one_frame = video.frames.nbytes // len(video.frames)
        estimated = estimate_bytes(tmp_path / name, policy, **more)
        assert abs(estimated - video.frames.nbytes) <= max(2 * one_frame, video.frames.nbytes // 10), more


def test_frames_and_folders_are_estimated_too(tmp_path: Path) -> None:
    frames = [numbered_frame(number) for number in range(20)]
    stream = io.BytesIO()
    Image.fromarray(frames[0]).save(stream, "png")
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(stream.getvalue())
    for source in (
        frames,
        np.stack(frames),
        tmp_path,
        [stream.getvalue()] * 20,
        {"frames": [{"bytes": stream.getvalue()}] * 20},
        [Image.fromarray(frame) for frame in frames],
    ):
        assert estimate_bytes(source, NINE) == ONE_VIDEO
    assert estimate_bytes(tmp_path / "gone.mp4", NINE) == 0
    assert estimate_bytes([], NINE) == 0


def test_frames_that_come_out_in_full_size_come_in_parts() -> None:
    assert split([0, 5, 9], 10) == [[0, 5, 9]]
    assert split([0, 5, 9], PART_BYTES // 2) == [[0, 5], [9]]
    assert split([0, 5, 9], PART_BYTES * 2) == [[0], [5], [9]]

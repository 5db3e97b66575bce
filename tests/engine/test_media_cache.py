"""The cache of decoded media: what is found is what was decoded, within its bound, whatever happens to its files."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from lmms_eval_grpc.engine.data.media import cache as cache_module
from lmms_eval_grpc.engine.data.media.array_store import ArrayStore
from lmms_eval_grpc.engine.data.media.cache import MediaCache, media_cache
from lmms_eval_grpc.engine.data.media.digest import media_digest
from lmms_eval_grpc.engine.data.media.errors import MediaError
from lmms_eval_grpc.engine.data.media.video import FramePolicy, Video, load_video
from tests.support.media_files import number_in, numbered_frame, sine, write_video

FOUR = FramePolicy(4)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.mp4", 50)
    return tmp_path / "clip.mp4"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded, by kind."""
    kinds: list[str] = []
    for kind in ("video", "audio", "image"):
        original = getattr(cache_module, f"load_{kind}")

        def load(*arguments: Any, kind: str = kind, original: Any = original, **options: Any) -> Any:
            kinds.append(kind)
            return original(*arguments, **options)

        monkeypatch.setattr(cache_module, f"load_{kind}", load)
    return kinds


def new(folder: Path, max_bytes: int = 1 << 30) -> MediaCache:
    return MediaCache(ArrayStore(folder, max_bytes))


def equal(one: Video, other: Video) -> bool:
    rest = [(v.timestamps, v.fps, v.duration, v.indices, v.total_frames) for v in (one, other)]
    return np.array_equal(one.frames, other.frames) and rest[0] == rest[1]


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_a_video_is_decoded_once_for_all_caches_of_a_folder(tmp_path: Path, clip: Path, decoded: list[str]) -> None:
    for _ in range(3):
        assert equal(new(tmp_path / "cache").video(clip, FOUR), load_video(clip, FOUR))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    new(tmp_path / "cache").video({"bytes": clip.read_bytes(), "path": None}, FOUR)
    new(tmp_path / "cache").video(copy, FOUR)
    assert decoded == ["video"]
    assert len(files_of(tmp_path / "cache")) == 1


def test_what_is_wanted_is_part_of_the_key(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = new(tmp_path / "cache")
    wanted: list[dict[str, Any]] = [
        {"policy": FOUR},
        {"policy": FramePolicy(3)},
        {"policy": FOUR, "start": 1.0},
        {"policy": FOUR, "end": 1.0},
        {"policy": FOUR, "max_pixels": 1000},
    ]
    for options in [*wanted, *wanted]:
        assert equal(cache.video(clip, **options), load_video(clip, **options))
    assert len(files_of(tmp_path / "cache")) == len(wanted)
    monkeypatch.setattr(cache_module, "decoder_version", lambda backend: "another")
    cache.video(clip, FOUR)
    assert len(files_of(tmp_path / "cache")) == len(wanted) + 1


def test_a_changed_file_is_decoded_again(tmp_path: Path, clip: Path) -> None:
    cache = new(tmp_path / "cache")
    assert cache.video(clip, FOUR).total_frames == 50
    write_video(clip, 20)
    assert cache.video(clip, FOUR).total_frames == 20


def test_audio_and_its_rate(tmp_path: Path, decoded: list[str]) -> None:
    soundfile.write(tmp_path / "a.wav", sine(440, 1.0, 44100), 44100)
    cache = new(tmp_path / "cache")
    first = cache.audio(tmp_path / "a.wav", 16000)
    assert np.array_equal(first, cache.audio(tmp_path / "a.wav", 16000))
    assert len(cache.audio(tmp_path / "a.wav", 8000)) == 8000
    assert decoded == ["audio"] * 2


def test_the_oldest_unused_go_first(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path, 100_000)
    arrays = {"frames": np.zeros(10_000, np.uint8)}
    for number in range(8):
        store.put(f"{number:064d}", arrays, {})
        os.utime(store._path(f"{number:064d}"), (number, number))
    assert store.get(f"{0:064d}") is not None  # used, so no longer the oldest
    store.put(f"{8:064d}", arrays, {})
    kept = [number for number in range(9) if store.get(f"{number:064d}") is not None]
    assert kept[0] == 0
    assert kept[-1] == 8
    assert 1 not in kept
    for number in range(9, 60):
        store.put(f"{number:064d}", arrays, {})
        assert sum(file.stat().st_size for file in files_of(tmp_path)) <= 100_000


def test_an_entry_that_would_fill_the_cache_is_not_kept(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path, 100_000)
    store.put("a" * 64, {"frames": np.zeros(50_000, np.uint8)}, {})
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another file"])
def test_a_broken_entry_is_removed_and_decoded_again(tmp_path: Path, clip: Path, damage: str) -> None:
    cache = new(tmp_path / "cache")
    cache.video(clip, FOUR)
    (entry,) = files_of(tmp_path / "cache")
    content = bytearray(entry.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    damaged = {"cut": content[:middle], "flipped": content, "empty": b"", "another file": b"hello" * 100}
    entry.write_bytes(bytes(damaged[damage]))
    assert equal(cache.video(clip, FOUR), load_video(clip, FOUR))
    assert equal(new(tmp_path / "cache").video(clip, FOUR), load_video(clip, FOUR))


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path, 100_000)
    old, young = tmp_path / "aa" / "x.partial", tmp_path / "aa" / "y.partial"
    old.parent.mkdir()
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (1, 1))
    store.put("b" * 64, {"frames": np.zeros(10, np.uint8)}, {})
    assert not old.exists()
    assert young.exists()


def test_a_folder_that_cannot_be_written_costs_no_sample(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert equal(new(tmp_path / "file").video(clip, FOUR), load_video(clip, FOUR))


_SMALL = 900_000


def _use(folder: str, clip: str, rounds: int, outcome: Any) -> None:
    """Asks for 24 choices of 28 to 110 KB each, more than the folder may hold."""
    cache = MediaCache(ArrayStore(Path(folder), _SMALL))
    wrong = 0
    for number in range(rounds):
        choice = number * 7 % 24
        video = cache.video(clip, FramePolicy(1 + choice % 4), end=1 + choice // 4 / 8)
        wrong += [number_in(frame) for frame in video.frames] != list(video.indices)
    outcome.put(wrong)


def test_two_processes_share_a_folder_while_entries_come_and_go(tmp_path: Path, clip: Path) -> None:
    context = multiprocessing.get_context("spawn")
    outcomes = context.Queue()
    arguments = (str(tmp_path / "cache"), str(clip), 60, outcomes)
    workers = [context.Process(target=_use, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [outcomes.get(timeout=240) for _ in workers] == [0, 0]
    for worker in workers:
        worker.join(60)
    entries = files_of(tmp_path / "cache")
    assert len(entries) > 4
    assert all(entry.suffix == ".npz" for entry in entries)
    assert sum(entry.stat().st_size for entry in entries) <= _SMALL


def test_threads_that_want_the_same_video_decode_it_once(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    others_came = threading.Event()
    cache = new(tmp_path / "cache")

    def slow(*arguments: Any, **options: Any) -> Video:
        calls.append(arguments)
        assert others_came.wait(60)
        return load_video(*arguments, **options)

    monkeypatch.setattr(cache_module, "load_video", slow)
    with ThreadPoolExecutor(4) as pool:
        videos = [pool.submit(cache.video, clip, FOUR) for _ in range(4)]
        others_came.set()
        assert all(equal(video.result(60), videos[0].result(60)) for video in videos)
    assert len(calls) == 1


def test_an_error_reaches_all_who_asked_and_is_not_kept(tmp_path: Path, decoded: list[str]) -> None:
    file = tmp_path / "broken.mp4"
    file.write_bytes(b"no video")
    cache = new(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(MediaError, match=r"broken\.mp4"):
            cache.video(file, FOUR)
    assert decoded == ["video"] * 2
    write_video(file, 5)
    assert cache.video(file, FOUR).total_frames == 5
    with pytest.raises(MediaError, match=r"gone\.mp4' cannot be read"):
        cache.video(tmp_path / "gone.mp4", FOUR)


def test_images_are_kept_in_memory_within_the_bound(tmp_path: Path, decoded: list[str]) -> None:
    for number in range(4):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"{number}.png")
    one = 48 * 192 * 3
    cache = MediaCache(None, memory_bytes=2 * one)
    for number in (0, 0, 1, 0, 2, 0, 1):  # 2 pushes 1 out, as 0 was used after it
        assert number_in(np.asarray(cache.image(str(tmp_path / f"{number}.png")))) == number
    assert decoded == ["image"] * 4
    off = MediaCache(None, memory_bytes=0)
    off.image(tmp_path / "0.png")
    off.image(tmp_path / "0.png")
    assert decoded == ["image"] * 6


def test_the_environment_says_where_and_how_much(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "data"))
    for variables, folder in (
        ({}, tmp_path / "data" / "lmms_eval_grpc_media"),
        ({"LMMS_EVAL_GRPC_MEDIA_CACHE": str(tmp_path / "mine")}, tmp_path / "mine"),
        ({"LMMS_EVAL_GRPC_MEDIA_CACHE": "off"}, None),
        ({"LMMS_EVAL_GRPC_MEDIA_CACHE_GIB": "0"}, None),
    ):
        before = len(files_of(tmp_path))
        with monkeypatch.context() as context:
            for name, value in variables.items():
                context.setenv(name, value)
            media_cache.cache_clear()
            media_cache().video(clip, FOUR)
        assert len(files_of(tmp_path)) - before == (0 if folder is None else 1)
        assert folder is None or len(files_of(folder)) == 1
    monkeypatch.setenv("LMMS_EVAL_GRPC_MEDIA_CACHE_GIB", "many")
    media_cache.cache_clear()
    with pytest.raises(ValueError, match="MEDIA_CACHE_GIB must be a number of GiB, 0 or more, but is 'many'"):
        media_cache()
    media_cache.cache_clear()


def test_digests_tell_sources_apart(tmp_path: Path) -> None:
    a, b = numbered_frame(1), numbered_frame(2)
    for name, frame in (("a.png", a), ("copy.png", a), ("b.png", b)):
        Image.fromarray(frame).save(tmp_path / name)
    for one, same, other in (
        (str(tmp_path / "a.png"), tmp_path / "copy.png", tmp_path / "b.png"),
        (a, a.copy(), b),
        (str(tmp_path / "a.png"), {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}, {"bytes": b"x"}),
        (Image.fromarray(a), Image.fromarray(a), Image.fromarray(b)),
        ({"bytes": b"x", "path": "p"}, {"bytes": b"x", "path": "q"}, {"bytes": b"y", "path": "p"}),
        ([a, b], [a, b], [b, a]),
        ({"path": str(tmp_path / "a.png"), "video_start": 1}, {"path": str(tmp_path / "copy.png"), "video_start": 1},
         {"path": str(tmp_path / "a.png"), "video_start": 2}),
        ({"array": a, "sampling_rate": 8}, {"array": a, "sampling_rate": 8, "path": "x"},
         {"array": a, "sampling_rate": 9}),
    ):  # fmt: skip
        assert media_digest("video", one) == media_digest("video", same) != media_digest("video", other)
        assert media_digest("video", one) != media_digest("image", one)


def test_pictures_that_look_different_have_different_digests() -> None:
    red, blue = (Image.new("P", (4, 4)) for _ in range(2))
    red.putpalette([255, 0, 0] * 256)
    blue.putpalette([0, 0, 255] * 256)
    upright, turned = (Image.new("RGB", (4, 4)) for _ in range(2))
    turned.getexif()[0x0112] = 6
    for one, other in ((red, blue), (upright, turned)):
        assert one.tobytes() == other.tobytes()
        assert media_digest("video", [one]) != media_digest("video", [other])


def test_a_large_file_counts_by_its_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmms_eval_grpc.engine.data.media.digest._MOST_READ", 4)
    file = tmp_path / "large.mp4"
    file.write_bytes(b"12345")
    before = media_digest("video", file)
    assert before == media_digest("video", str(file))
    os.utime(file, (1, 1))
    assert media_digest("video", file) != before

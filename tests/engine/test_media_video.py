"""Videos: the frames that a policy asks for are the frames that come, whatever the file is like."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from lmms_eval_grpc.engine.data.media import video_pyav
from lmms_eval_grpc.engine.data.media.audio import load_audio
from lmms_eval_grpc.engine.data.media.errors import MediaError
from lmms_eval_grpc.engine.data.media.images import load_image
from lmms_eval_grpc.engine.data.media.video import FramePolicy, Video, load_video
from tests.support.media_files import number_in, numbered_frame, sine, write_sound, write_video

NINE = FramePolicy(max_num_frames=9)


def numbers(video: Video) -> list[int]:
    return [number_in(frame) for frame in video.frames]


def decoded_in_full(file: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture
def only_seeking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test when a file is decoded in full."""

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("decoded in full")

    monkeypatch.setattr(video_pyav, "_in_full", refuse)


# --- What comes out of files


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("libx264", "a.mp4", {"bf": "0"}),
        ("libx264", "a.mp4", {"bf": "3"}),
        ("libx264", "a.mkv", {"bf": "3", "x264-params": "open-gop=1"}),
        ("mpeg4", "a.mp4", {"bf": "2"}),
        ("mpeg4", "a.avi", {}),
        ("libvpx-vp9", "a.webm", {"deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_seeking_gives_the_frames_of_a_full_decode(
    tmp_path: Path, only_seeking: None, codec: str, name: str, options: dict[str, str]
) -> None:
    write_video(tmp_path / name, 100, codec=codec, codec_options=options)
    video = load_video(tmp_path / name, NINE)
    assert list(video.indices) == [0, 12, 24, 37, 49, 61, 74, 86, 99] == numbers(video)
    whole = decoded_in_full(tmp_path / name)
    assert all(np.array_equal(frame, whole[index]) for frame, index in zip(video.frames, video.indices, strict=True))
    assert (video.total_frames, video.fps, video.duration) == (100, 25.0, 4.0)
    assert video.timestamps == pytest.approx([index / 25 for index in video.indices], abs=1e-3)


def test_every_single_frame_can_be_had_by_seeking(tmp_path: Path, only_seeking: None) -> None:
    write_video(tmp_path / "a.mp4", 40, codec_options={"bf": "3"}, gop=10)
    for index in range(40):
        place = index / 25
        assert numbers(load_video(tmp_path / "a.mp4", NINE, start=place, end=place)) == [index]


@pytest.mark.parametrize(
    ("codec", "name", "container"),
    [("libx264", "a.h264", None), ("libx264", "a.ts", None), ("mpeg2video", "a.mpg", None), ("gif", "a.gif", None)],
)
def test_files_without_an_index_give_the_same(tmp_path: Path, codec: str, name: str, container: str | None) -> None:
    pixels = "rgb8" if codec == "gif" else "yuv420p"
    write_video(
        tmp_path / name, 60, codec=codec, pixel_format=pixels, codec_options={} if codec == "gif" else {"bf": "2"}
    )
    video = load_video(tmp_path / name, NINE)
    assert numbers(video) == list(video.indices)
    assert video.total_frames == 60


def test_a_long_video_is_not_decoded_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", 400, gop=10)
    seen = []
    original = video_pyav._frame_at

    def count(decoder: Any, stamp: int) -> Any:
        return original((seen.append(frame) or frame for frame in decoder), stamp)  # type: ignore[func-returns-value]

    monkeypatch.setattr(video_pyav, "_frame_at", count)
    assert numbers(load_video(tmp_path / "a.mp4", FramePolicy(4))) == [0, 133, 266, 399]
    assert len(seen) < 50


def test_variable_frame_rate_keeps_the_times(tmp_path: Path) -> None:
    stamps = list(itertools.accumulate([0, *([20, 20, 200] * 13)]))
    write_video(tmp_path / "a.mkv", 40, stamps=stamps)
    video = load_video(tmp_path / "a.mkv", FramePolicy(None))
    assert numbers(video) == list(range(40))
    assert video.timestamps == pytest.approx([stamp / 1000 for stamp in stamps], abs=2e-3)
    assert video.fps == pytest.approx(39 / 3.12, rel=0.05)
    half = load_video(tmp_path / "a.mkv", FramePolicy(None), start=1.0, end=2.0)
    assert numbers(half) == [index for index, stamp in enumerate(stamps) if 1000 <= stamp <= 2000]


def test_a_part_of_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 100)
    source = {"path": str(tmp_path / "a.mp4"), "video_start": 1.0, "video_end": 2.0}
    assert load_video(source, FramePolicy(3)).indices == (25, 37, 50)
    assert load_video(source, FramePolicy(3), end=3.0).indices == (25, 50, 75)
    assert load_video(source, FramePolicy(32, fps=2)).indices == (25, 50)
    assert load_video(tmp_path / "a.mp4", NINE, start=1.01, end=1.02).indices == (25,)  # what is on display
    with pytest.raises(MediaError, match=r"a\.mp4' has no frame between 7 s and 8 s; it lasts 4 s"):
        load_video(tmp_path / "a.mp4", NINE, start=7, end=8)
    with pytest.raises(MediaError, match="before its start"):
        load_video(tmp_path / "a.mp4", NINE, start=3, end=2)


@pytest.mark.parametrize(("degrees", "shape"), [(90, (192, 48)), (180, (48, 192)), (270, (192, 48))])
def test_a_turned_video_is_upright(tmp_path: Path, degrees: int, shape: tuple[int, int]) -> None:
    write_video(tmp_path / "a.mp4", 12, rotation=degrees)
    video = load_video(tmp_path / "a.mp4", FramePolicy(None))
    assert video.frames.shape[1:3] == shape
    # FFmpeg's rotation is counter-clockwise: turning back by it shows the numbers as they were painted.
    assert [number_in(np.rot90(frame, -degrees // 90)) for frame in video.frames] == list(range(12))


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv422p10le", "yuvj420p", "gray"])
def test_odd_pixel_formats(tmp_path: Path, pixel_format: str) -> None:
    write_video(tmp_path / "a.mkv", 20, pixel_format=pixel_format)
    video = load_video(tmp_path / "a.mkv", FramePolicy(5))
    assert numbers(video) == [0, 4, 9, 14, 19]
    assert video.frames.dtype == np.uint8


def test_frames_are_scaled_as_they_are_decoded(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 10)
    frames = load_video(tmp_path / "a.mp4", FramePolicy(2), max_pixels=48 * 48).frames
    assert frames.shape[1] * frames.shape[2] <= 48 * 48
    assert frames.shape[2] / frames.shape[1] == pytest.approx(4, rel=0.1)


# --- Damaged files


def test_a_file_cut_off_gives_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "cut.mp4"
    write_video(file, 200, container_options={"movflags": "faststart"})
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    video = load_video(file, NINE)
    assert 60 < video.total_frames < 200
    assert video.indices[-1] == video.total_frames - 1
    assert numbers(video)[:-1] == list(video.indices)[:-1]  # the last may be half there
    assert "announces 200 frames" in caplog.text


def test_damage_in_the_middle_costs_no_other_frame(tmp_path: Path) -> None:
    file = tmp_path / "hurt.mp4"
    write_video(file, 200, gop=10)
    content = bytearray(file.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 400] = bytes(400)
    file.write_bytes(bytes(content))
    video = load_video(file, NINE)
    assert len(video.indices) == 9
    assert numbers(video)[0] == 0
    assert numbers(video)[-1] == 199


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.webm", "a.flac", "a.mp3", "a.m4a", "a.png", "a.jpg"]
)
def test_random_damage_is_a_media_error_or_none_at_all(tmp_path: Path, name: str) -> None:
    load = _write_any(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    dice = random.Random(name)
    for round_number in range(24):
        content = bytearray(whole)
        place = dice.randrange(len(content))
        if round_number % 3 == 0:
            del content[place:]
        elif round_number % 3 == 1:
            del content[place : place + dice.randrange(1, 200)]
        else:
            for _ in range(10):
                content[dice.randrange(len(content))] = dice.randrange(256)
        with contextlib.suppress(MediaError):
            load(bytes(content))


def _write_any(file: Path) -> Callable[[bytes], object]:
    """A small file of the kind that its name says, and what reads such."""
    if file.suffix in (".flac", ".mp3"):
        soundfile.write(file, sine(440, 0.5, 16000), 16000)
    elif file.suffix == ".m4a":
        write_sound(file, np.stack([sine(440, 0.5, 48000)] * 2), 48000, "aac")
    elif file.suffix in (".png", ".jpg"):
        Image.fromarray(numbered_frame(77)).save(file)
        return load_image
    else:
        codec = {".avi": "mpeg4", ".webm": "libvpx-vp9"}.get(file.suffix, "libx264")
        write_video(file, 30, codec=codec)
        return lambda content: load_video(content, FramePolicy(6))
    return lambda content: load_audio(content, 8000)


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.mp4"
    file.write_bytes(content)
    with pytest.raises(MediaError, match=r"broken\.mp4' cannot be decoded"):
        load_video(str(file), NINE)
    with pytest.raises(MediaError, match=f"of {len(content)} bytes"):
        load_video(content, NINE)


def test_a_header_without_frames_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "empty.mkv", 0, codec="mpeg4")
    with pytest.raises(MediaError, match=r"empty\.mkv' cannot be decoded"):
        load_video(tmp_path / "empty.mkv", NINE)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    with pytest.raises(MediaError, match=r"a\.wav' cannot be decoded: the file has no video stream"):
        load_video(tmp_path / "a.wav", NINE)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/no/such/clip.mp4", r"'/no/such/clip\.mp4': there is no such file"),
        ({"path": "/no/such/clip.mp4", "video_start": 1}, r"'/no/such/clip\.mp4'"),
        ("https://example.org/a.mp4", "fetched from the network"),
        ({"type": "video"}, "needs one of frames, bytes, path and url, but has type"),
        (5, "not int"),
        (None, "not NoneType"),
        ([], "no frames"),
        (np.zeros((2, 4, 4)), "uint8"),
    ],
)
def test_what_cannot_be_a_video_says_why(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        load_video(source, NINE)


# --- Sources


def test_the_same_video_from_every_kind_of_source(tmp_path: Path) -> None:
    file = tmp_path / "a clip.mp4"
    write_video(file, 50)
    content = file.read_bytes()
    sources: list[Any] = [
        file,
        str(file),
        file.as_uri(),
        content,
        {"bytes": content, "path": "elsewhere.mp4"},
        {"bytes": None, "path": str(file)},
        {"type": "video", "url": file.as_uri()},
    ]
    for source in sources:
        assert numbers(load_video(source, FramePolicy(4))) == [0, 16, 32, 49], source


def test_frames_as_a_video(tmp_path: Path) -> None:
    frames = [numbered_frame(number) for number in range(12)]
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame_{number}.png")  # 10 sorts before 2 as text
    buffer = io.BytesIO()
    Image.fromarray(frames[3]).save(buffer, format="PNG")
    files = [str(tmp_path / f"frame_{number}.png") for number in range(12)]
    mixed = [Image.fromarray(frames[0]), files[1], frames[2], buffer.getvalue(), *files[4:]]
    for source in (tmp_path, files, frames, np.stack(frames), mixed, {"frames": frames}, {"path": str(tmp_path)}):
        video = load_video(source, FramePolicy(4))
        assert numbers(video) == [0, 3, 7, 11]
        assert video.total_frames == 12
    timed = load_video({"frames": files, "fps": 4}, FramePolicy(32, fps=1))
    assert numbers(timed) == [0, 5, 11]
    assert (timed.timestamps, timed.duration) == ((0.0, 1.25, 2.75), 3.0)


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="folder without pictures"):
        load_video(tmp_path, NINE)


def test_frames_of_different_sizes_become_equal() -> None:
    video = load_video([np.zeros((4, 6, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)], NINE)
    assert video.frames.shape == (2, 4, 6, 3)


# --- Decoders by name


def test_an_unknown_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", 2)
    monkeypatch.setenv("LMMS_VIDEO_DECODE_BACKEND", "decord")
    with pytest.raises(ValueError, match="must be pyav, torchcodec or dali, but is 'decord'"):
        load_video(tmp_path / "a.mp4", NINE)


@pytest.mark.parametrize(
    ("backend", "module", "package"),
    [("torchcodec", "torchcodec.decoders", "torchcodec"), ("dali", "nvidia.dali", "nvidia-dali-cuda120")],
)
def test_another_decoder_gives_the_same_frames_or_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, module: str, package: str
) -> None:
    write_video(tmp_path / "a.webm", 50, codec="libvpx-vp9", codec_options={"deadline": "realtime", "cpu-used": "8"})
    monkeypatch.setenv("LMMS_VIDEO_DECODE_BACKEND", backend)
    monkeypatch.setenv("LMMS_VIDEO_DALI_DEVICE", "cpu")
    try:
        __import__(module)
    except Exception:
        with pytest.raises(ImportError, match=f"needs the package {package}.*use pyav"):
            load_video(tmp_path / "a.webm", NINE)
        return
    video = load_video(tmp_path / "a.webm", NINE)
    assert numbers(video) == list(video.indices) == [0, 6, 12, 18, 24, 30, 36, 42, 49]

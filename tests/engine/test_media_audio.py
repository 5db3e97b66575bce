"""Audio: the samples of a known wave come out at the rate that is asked for, whatever they were stored as."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

from lmms_eval_grpc.engine.data.documents import Documents
from lmms_eval_grpc.engine.data.media.audio import load_audio
from lmms_eval_grpc.engine.data.media.errors import MediaError
from lmms_eval_grpc.engine.data.media.video import FramePolicy, load_video
from lmms_eval_grpc.engine.tasks.messages import visual_item
from tests.support.media_files import number_in, sine, write_sound, write_video

RATE = 16000
_EDGE = 800  # a filter rings where a wave begins and ends


def differs_by(samples: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    """The largest difference, away from the ends."""
    length = min(len(samples), len(wanted))
    return float(np.abs(samples[:length] - wanted[:length])[_EDGE:-_EDGE].max())


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_resampling_keeps_the_wave(rate: int) -> None:
    samples = load_audio({"array": sine(440, 1.0, rate), "sampling_rate": rate}, RATE)
    assert samples.dtype == np.float32
    assert len(samples) == RATE
    assert differs_by(samples, sine(440, 1.0, RATE)) < 1e-3


def test_what_the_new_rate_cannot_hold_is_filtered_out() -> None:
    too_high = load_audio({"array": sine(12000, 1.0, 48000), "sampling_rate": 48000}, RATE)
    assert np.abs(too_high[_EDGE:-_EDGE]).max() < 1e-3


@pytest.mark.parametrize(("name", "most"), [("a.wav", 1e-3), ("a.flac", 1e-3), ("a.ogg", 0.03), ("a.mp3", 0.03)])
def test_formats_that_soundfile_reads(tmp_path: Path, name: str, most: float) -> None:
    wave = sine(440, 1.0, 44100)
    soundfile.write(tmp_path / name, np.stack([wave, wave], axis=1), 44100)
    assert differs_by(load_audio(tmp_path / name, RATE), sine(440, 1.0, RATE)) < most
    assert differs_by(load_audio((tmp_path / name).read_bytes(), RATE), sine(440, 1.0, RATE)) < most


PARTS = [(0.5, 1.25), (None, 0.75), (1.5, None), (0.0, 9.0), (0.3, 0.3001)]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.ogg", "a.mp3", "a.m4a", "a.opus", "a.mka"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_part_is_the_same_samples_as_of_the_whole(tmp_path: Path, name: str, channels: int) -> None:
    wave = np.stack([sine(440, 2.0, 48000), sine(700, 2.0, 48000)])
    codec = {"a.m4a": "aac", "a.opus": "libopus", "a.mka": "flac"}.get(name)
    if codec:
        write_sound(tmp_path / name, wave, 48000, codec)
    else:
        soundfile.write(tmp_path / name, wave[:channels].T, 48000)
    whole = load_audio(tmp_path / name, 48000)
    for source in (tmp_path / name, (tmp_path / name).read_bytes()):
        for start, end in PARTS:
            first = round((start or 0.0) * 48000)
            behind = len(whole) if end is None else round(end * 48000)
            part = load_audio(source, 48000, start=start, end=end)
            assert np.array_equal(part, whole[first:behind]), (start, end)


def test_a_mapping_may_name_the_part() -> None:
    array = sine(440, 2.0, RATE)
    source = {"array": array, "sampling_rate": RATE, "audio_start": 0.5, "audio_end": 1.0}
    assert np.array_equal(load_audio(source, RATE), array[RATE // 2 : RATE])
    assert np.array_equal(load_audio(source, RATE, end=0.75), array[RATE // 2 : RATE * 3 // 4])
    clip = {"type": "audio", "path": "a.wav", "audio_start": 1}
    assert visual_item(clip) == {"type": "audio", "url": clip}


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.opus", "libopus"), ("a.webm", "libopus"), ("a.mka", "flac")]
)
def test_formats_that_ffmpeg_reads(tmp_path: Path, name: str, codec: str) -> None:
    wave = sine(440, 1.0, 48000)
    write_sound(tmp_path / name, np.stack([wave, wave]), 48000, codec)
    for source in (tmp_path / name, (tmp_path / name).read_bytes()):
        assert differs_by(load_audio(source, RATE), sine(440, 1.0, RATE)) < 0.05


def test_raw_aac_begins_with_its_encoders_delay(tmp_path: Path) -> None:
    wave = sine(440, 1.0, 48000)
    write_sound(tmp_path / "a.aac", np.stack([wave, wave]), 48000, "aac")
    samples = load_audio(tmp_path / "a.aac", RATE)
    assert np.sqrt(np.mean(samples[_EDGE:-_EDGE] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)


def test_the_sound_of_a_video(tmp_path: Path) -> None:
    wave = sine(440, 2.0, 44100)
    write_sound(tmp_path / "a.mp4", np.stack([wave, wave]), 44100, "aac", pictures=50)
    assert differs_by(load_audio(str(tmp_path / "a.mp4"), RATE), sine(440, 2.0, RATE)) < 0.05
    assert [number_in(frame) for frame in load_video(tmp_path / "a.mp4", FramePolicy(3)).frames] == [0, 24, 49]


def test_channels_are_averaged() -> None:
    both = np.stack([sine(440, 0.5, RATE), np.zeros(RATE // 2, np.float32)], axis=1)
    samples = load_audio({"array": both, "sampling_rate": RATE}, RATE)
    assert np.allclose(samples, sine(440, 0.5, RATE) / 2)


def test_whole_numbers_are_scaled_to_one() -> None:
    samples = load_audio({"array": np.array([-32768, 0, 16384], np.int16), "sampling_rate": RATE}, RATE)
    assert samples.tolist() == [-1.0, 0.0, 0.5]


def test_a_part_of_a_recording(tmp_path: Path) -> None:
    ramp = np.arange(4 * RATE, dtype=np.float32) / (4 * RATE)
    soundfile.write(tmp_path / "a.wav", ramp, RATE, subtype="FLOAT")
    part = load_audio(tmp_path / "a.wav", RATE, start=1.0, end=2.5)
    assert np.array_equal(part, ramp[RATE : RATE * 5 // 2])
    assert len(load_audio(tmp_path / "a.wav", RATE, start=3.0, end=9.0)) == RATE
    with pytest.raises(MediaError, match=r"a\.wav' has no samples between 5 s and its end"):
        load_audio(tmp_path / "a.wav", RATE, start=5.0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/no/such/a.wav", r"'/no/such/a\.wav': there is no such file"),
        ({"path": "/no/such/a.wav"}, "there is no such file"),
        (b"RIFF and nothing", "audio of 16 bytes cannot be decoded"),
        ({"array": [0.0]}, "sampling_rate"),
        ({"array": np.zeros((1, 2, 3)), "sampling_rate": 8000}, r"\(1, 2, 3\)"),
        ({"array": [], "sampling_rate": 8000}, "no samples"),
        ({}, "needs array and sampling_rate"),
        ("https://example.org/a.wav", "network"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_audio_says_why(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        load_audio(source, RATE)


def test_a_video_without_sound_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "mute.mp4", 3)
    with pytest.raises(MediaError, match=r"mute\.mp4' cannot be decoded: the file has no sound track"):
        load_audio(tmp_path / "mute.mp4", RATE)


# --- From datasets to models


@pytest.mark.parametrize("column_rate", [None, 8000])
def test_an_audio_column_reaches_the_model(column_rate: int | None) -> None:
    buffer = io.BytesIO()
    wave = sine(440, 1.0, 44100)
    soundfile.write(buffer, np.stack([wave, wave], axis=1), 44100, format="WAV", subtype="FLOAT")
    rows = datasets.Dataset.from_list([{"sound": {"bytes": buffer.getvalue(), "path": "a.wav"}}])
    documents = Documents("toy", rows.cast_column("sound", datasets.Audio(sampling_rate=column_rate)))
    sound = documents.with_media(0)["sound"]
    assert sound["sampling_rate"] == (column_rate or 44100)
    assert sound["array"].shape == (sound["sampling_rate"],)
    item = visual_item(sound)
    assert item["type"] == "audio"
    assert differs_by(load_audio(item["url"], RATE), sine(440, 1.0, RATE)) < 1e-3


def test_a_video_column_reaches_the_model(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 30)
    file = {"bytes": None, "path": str(tmp_path / "a.mp4")}
    inside = {"bytes": (tmp_path / "a.mp4").read_bytes(), "path": "a.mp4"}
    rows = datasets.Dataset.from_list([{"video": file}, {"video": inside}])
    documents = Documents("toy", rows.cast_column("video", datasets.Video()))
    for doc_id in (0, 1):
        item = visual_item(documents.with_media(doc_id)["video"])
        assert item["type"] == "video"
        assert load_video(item["url"], FramePolicy(2)).indices == (0, 29)

"""From whatever a message names as audio to one channel of samples at the rate that a model wants."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_eval_grpc.engine.data.media.errors import MediaError, describe
from lmms_eval_grpc.engine.data.media.sources import locate, require_file

Samples = npt.NDArray[np.float32]


def load_audio(source: Any, sampling_rate: int, *, start: float | None = None, end: float | None = None) -> Samples:
    """The samples of ``source`` between ``start`` and ``end`` (seconds): one axis, usually within −1 … 1.

    ``source`` is a path or ``file:`` or ``data:`` URL of a recording or of a video with sound, its bytes, or a mapping:
    of ``array`` (samples, or samples × channels) and ``sampling_rate`` as ``datasets`` decodes audio, or with ``path``,
    ``bytes`` or ``url``. Channels are averaged. Resampling is by soxr in the quality that librosa uses.

    Raises MediaError for what is missing, is no audio, or has nothing between ``start`` and ``end``.
    """
    samples, rate = decode_audio(source)
    first = 0 if start is None else max(0, round(start * rate))
    behind = len(samples) if end is None else round(end * rate)
    samples = samples[first:behind]
    if samples.size == 0:
        raise MediaError(f"audio {describe(source)} has no samples{_within(start, end)}")
    return resample(samples, rate, sampling_rate)


def decode_audio(source: Any) -> tuple[Samples, int]:
    """The samples of ``source`` as in :func:`load_audio`, and their own rate in hertz. Raises MediaError."""
    if isinstance(source, Mapping):
        if source.get("array") is not None:
            return _from_array(source)
        content = next((source[key] for key in ("bytes", "path", "url") if source.get(key) is not None), None)
        if content is None:
            raise MediaError(f"audio {describe(source)}: needs array and sampling_rate, or one of bytes, path and url")
        if isinstance(content, Mapping):
            return decode_audio(content)
        return _decode(locate("audio", content), describe(source))
    return _decode(locate("audio", source), describe(source))


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """``samples`` (one axis) of ``rate`` hertz at ``wanted`` hertz."""
    if rate == wanted:
        return np.ascontiguousarray(samples, dtype=np.float32)
    import soxr  # late: few tasks have sound

    resampled: Samples = soxr.resample(samples, rate, wanted, quality="HQ")
    return resampled


def _from_array(source: Mapping[str, Any]) -> tuple[Samples, int]:
    rate = source.get("sampling_rate")
    if not rate:
        raise MediaError("audio given as an array needs its sampling_rate in hertz")
    array = np.asarray(source["array"])
    if array.ndim not in (1, 2):
        raise MediaError(f"audio given as an array must be samples, or samples × channels, not {array.shape}")
    if np.issubdtype(array.dtype, np.integer):
        array = array / np.float32(-float(np.iinfo(array.dtype).min) or 1.0)
    return _mixed(array.astype(np.float32, copy=False)), int(rate)


def _decode(place: Path | bytes, name: str) -> tuple[Samples, int]:
    import soundfile

    if isinstance(place, Path):
        require_file("audio", place)
    try:
        samples, rate = soundfile.read(io.BytesIO(place) if isinstance(place, bytes) else str(place), dtype="float32")
    except (soundfile.SoundFileError, OSError) as error:
        return _by_pyav(place, name, error)
    return _mixed(samples), int(rate)


def _mixed(samples: Samples) -> Samples:
    """One axis: of samples × channels the mean of the channels."""
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)


def _by_pyav(place: Path | bytes, name: str, refusal: Exception) -> tuple[Samples, int]:
    """The first sound track of any file that FFmpeg knows. ``refusal`` is what soundfile said of it."""
    import av

    pieces: list[Samples] = []
    converter, rate = None, 0
    try:
        with av.open(io.BytesIO(place) if isinstance(place, bytes) else str(place)) as container:
            if not container.streams.audio:
                raise MediaError(f"audio {name} cannot be decoded: the file has no sound track")
            for packet in container.demux(container.streams.audio[0]):
                # One packet that is broken, or that changes the rate, is a gap and not the end.
                with contextlib.suppress(av.FFmpegError, ValueError):
                    for frame in packet.decode():
                        if converter is None:
                            rate = frame.sample_rate  # the stream's may be half of it
                            converter = av.AudioResampler(format="fltp", rate=rate)
                        pieces.extend(piece.to_ndarray().mean(axis=0) for piece in converter.resample(frame))
    except MediaError:
        raise
    except (av.FFmpegError, AttributeError) as error:  # AttributeError: PyAV, of a codec that it does not know
        if not pieces:
            raise MediaError(f"audio {name} cannot be decoded: {error}; {refusal}") from error
    if not pieces:
        raise MediaError(f"audio {name} cannot be decoded: no part of its sound is whole")
    return np.concatenate(pieces), rate


def _within(start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return ""
    return f" between {start or 0:g} s and {'its end' if end is None else f'{end:g} s'}"

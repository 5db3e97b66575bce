"""From whatever a message names as audio to one channel of samples at the rate that a model wants."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_eval_grpc.engine.data.media.errors import MediaError, describe
from lmms_eval_grpc.engine.data.media.sources import locate, require_file

Samples = npt.NDArray[np.float32]

_EXACT = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW", "ALAC")
"""Beginnings of the encodings, FLAC's among them, in which each sample can be had by itself."""


def load_audio(source: Any, sampling_rate: int, *, start: float | None = None, end: float | None = None) -> Samples:
    """The samples of ``source`` between ``start`` and ``end`` (seconds): one axis, usually within −1 … 1.

    ``source`` is a path or ``file:`` or ``data:`` URL of a recording or of a video with sound, its bytes, or a mapping:
    of ``array`` (samples, or samples × channels) and ``sampling_rate`` as ``datasets`` decodes audio, or with ``path``,
    ``bytes`` or ``url``; with ``audio_start`` and ``audio_end`` in seconds, if it has them. Channels are averaged.
    Resampling is by soxr in the quality that librosa uses. What is outside of the two times is not kept, nor decoded
    where it need not be.

    Raises MediaError for what is missing, is no audio, or has nothing between ``start`` and ``end``.
    """
    if isinstance(source, Mapping):
        start = source.get("audio_start") if start is None else start
        end = source.get("audio_end") if end is None else end
    samples, rate = decode_audio(source, start, end)
    if samples.size == 0:
        raise MediaError(f"audio {describe(source)} has no samples{_within(start, end)}")
    return resample(samples, rate, sampling_rate)


def decode_audio(source: Any, start: float | None = None, end: float | None = None) -> tuple[Samples, int]:
    """The samples of ``source`` as in :func:`load_audio`, and their own rate in hertz. Raises MediaError."""
    if isinstance(source, Mapping):
        if source.get("array") is not None:
            samples, rate = _from_array(source)
            return samples[_span(rate, start, end)], rate
        content = next((source[key] for key in ("bytes", "path", "url") if source.get(key) is not None), None)
        if content is None:
            raise MediaError(f"audio {describe(source)}: needs array and sampling_rate, or one of bytes, path and url")
        if isinstance(content, Mapping):
            return decode_audio(content, start, end)
        return _decode(locate("audio", content), describe(source), start, end)
    return _decode(locate("audio", source), describe(source), start, end)


def _span(rate: int, start: float | None, end: float | None) -> slice:
    """The samples between two times in seconds; ``stop`` is None for the rest of the recording."""
    first = 0 if start is None else max(0, round(start * rate))
    return slice(first, None if end is None else max(first, round(end * rate)))


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


def _decode(place: Path | bytes, name: str, start: float | None, end: float | None) -> tuple[Samples, int]:
    import soundfile

    if isinstance(place, Path):
        require_file("audio", place)
    try:
        with soundfile.SoundFile(io.BytesIO(place) if isinstance(place, bytes) else str(place)) as file:
            return _read(file, _span(file.samplerate, start, end)), file.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        return _by_pyav(place, name, start, end, error)


def _read(file: Any, span: slice) -> Samples:
    """The span of an open recording. Where a jump would not lead to the same samples, what is before is read too."""
    before = span.start
    if before and file.subtype.startswith(_EXACT):
        file.seek(min(before, file.frames))
        before = 0
    samples = file.read(-1 if span.stop is None else span.stop - span.start + before, dtype="float32")
    return _mixed(samples[before:].copy() if before else samples)  # not a view, which would keep the rest


def _mixed(samples: Samples) -> Samples:
    """One axis: of samples × channels the mean of the channels."""
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)


def _by_pyav(
    place: Path | bytes, name: str, start: float | None, end: float | None, refusal: Exception
) -> tuple[Samples, int]:
    """The first sound track of any file that FFmpeg knows. ``refusal`` is what soundfile said of it."""
    import av

    pieces: list[Samples] = []
    span, rate, position = slice(0, None), 0, 0
    try:
        with av.open(io.BytesIO(place) if isinstance(place, bytes) else str(place)) as container:
            if not container.streams.audio:
                raise MediaError(f"audio {name} cannot be decoded: the file has no sound track")
            for piece, rate in _pieces(container, container.streams.audio[0]):
                if position == 0:
                    span = _span(rate, start, end)
                within = slice(max(0, span.start - position), None if span.stop is None else span.stop - position)
                position += len(piece)
                pieces.append(piece[within].copy())  # not a view, which would keep the rest
                if span.stop is not None and position >= span.stop:
                    break
    except MediaError:
        raise
    except (av.FFmpegError, AttributeError) as error:  # AttributeError: PyAV, of a codec that it does not know
        if not pieces:
            raise MediaError(f"audio {name} cannot be decoded: {error}; {refusal}") from error
    if not pieces:
        raise MediaError(f"audio {name} cannot be decoded: no part of its sound is whole")
    return np.concatenate(pieces), rate


def _pieces(container: Any, stream: Any) -> Iterator[tuple[Samples, int]]:
    """The sound of a stream from its beginning, one channel, a frame at a time, and its rate in hertz."""
    import av

    converter, rate = None, 0
    for packet in container.demux(stream):
        # One packet that is broken, or that changes the rate, is a gap and not the end.
        with contextlib.suppress(av.FFmpegError, ValueError):
            for frame in packet.decode():
                if converter is None:
                    rate = frame.sample_rate  # the stream's may be half of it
                    converter = av.AudioResampler(format="fltp", rate=rate)
                yield from [(piece.to_ndarray().mean(axis=0), rate) for piece in converter.resample(frame)]


def _within(start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return ""
    return f" between {start or 0:g} s and {'its end' if end is None else f'{end:g} s'}"

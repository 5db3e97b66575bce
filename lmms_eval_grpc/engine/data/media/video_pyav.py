"""Video by PyAV: only what has to be decoded, and the same frames as decoding everything would give.

The packets of the stream are read first, without decoding: their timestamps tell how many frames there are, when
each is shown, and from which key frame it can be decoded. Then the decoder jumps from key frame to key frame. Where
a file does not keep what its packets promise (no timestamps, a missing frame, a seek that lands elsewhere), all of it
is decoded in order, and what comes out is what the video is.
"""

from __future__ import annotations

import io
import itertools
import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from lmms_eval_grpc.engine.data.media.errors import MediaError
from lmms_eval_grpc.engine.data.media.images import fit_frame
from lmms_eval_grpc.engine.data.media.timeline import Timeline

_log = logging.getLogger(__name__)

Frame = npt.NDArray[np.uint8]
Choice = Callable[[Timeline], list[int]]


class _UnreliableError(Exception):
    """The file's packets do not lead to its frames; all of it has to be decoded."""


def decode(place: Path | bytes, choose: Choice, max_pixels: int | None, name: str) -> tuple[dict[int, Frame], Timeline]:
    """The frames that ``choose`` wants of the timeline, by index. ``name`` is how errors call the video."""
    try:
        with _open(place) as container:
            stream = _stream(container, name)
            try:
                return _by_seeking(container, stream, choose, max_pixels)
            except (_UnreliableError, av.FFmpegError) as error:
                _log.debug("video %s is decoded in full: %s", name, error)
        return _in_full(place, choose, max_pixels, name)
    except MediaError:
        raise
    except (av.FFmpegError, ValueError) as error:  # ValueError: a picture that cannot be converted
        raise MediaError(f"video {name} cannot be decoded: {error}") from error


def announced(place: Path | bytes) -> tuple[int, float, int]:
    """Frames, frames a second, and pixels of each, as the file's header has them.

    Where it has no number of frames, that follows from how long it lasts; where it does not say that either, all
    packets are counted. Raises MediaError or what PyAV raises.
    """
    with _open(place) as container:
        stream = _stream(container, "")
        rate = float(stream.average_rate or stream.guessed_rate or 1)
        pixels = stream.codec_context.width * stream.codec_context.height
        total = stream.frames
        if not total and stream.duration:
            total = round(float(stream.duration * stream.time_base) * rate)
        if not total and container.duration:
            total = round(container.duration / av.time_base * rate)
        if not total:
            total = sum(packet.size > 0 for packet in container.demux(stream))
        return total, rate, pixels


def read_timeline(place: Path | bytes, name: str) -> Timeline:
    """When the frames of a video are shown, for decoders that do not say so themselves."""
    try:
        with _open(place) as container:
            stream = _stream(container, name)
            try:
                stamps, _ = _packets(container, stream)
                return Timeline.measured(_seconds(stamps, stream.time_base), stream.average_rate)
            except _UnreliableError:
                pass
        return _full_timeline(place, name)
    except av.FFmpegError as error:
        raise MediaError(f"video {name} cannot be decoded: {error}") from error


def _open(place: Path | bytes) -> Any:
    return av.open(io.BytesIO(place) if isinstance(place, bytes) else str(place))


def _stream(container: Any, name: str) -> Any:
    # The picture on a record's sleeve is a video stream too.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise MediaError(f"video {name} cannot be decoded: the file has no video stream")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _by_seeking(
    container: Any, stream: Any, choose: Choice, max_pixels: int | None
) -> tuple[dict[int, Frame], Timeline]:
    stamps, keys = _packets(container, stream)
    timeline = Timeline.measured(_seconds(stamps, stream.time_base), stream.average_rate)
    wanted = choose(timeline)
    frames: dict[int, Frame] = {}
    decoder: Iterator[Any] = iter(())
    position = len(stamps)  # where the decoder stands; at first beyond every key frame
    for index in wanted:
        key = keys[bisect_right(keys, stamps[index]) - 1]
        start = bisect_right(stamps, key) - 1
        if not frames or start > position:
            container.seek(key, stream=stream, backward=True)
            decoder = container.decode(stream)
        frame = _frame_at(decoder, stamps[index])
        position = index + 1
        frames[index] = _rgb(frame, max_pixels)
    return frames, timeline


def _packets(container: Any, stream: Any) -> tuple[list[int], list[int]]:
    """The timestamps of all frames and of the key frames, ascending, in the stream's time base."""
    stamps: list[int] = []
    keys: list[int] = []
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:  # the end, or what an edit list cuts off
            continue
        if packet.pts is None or packet.is_corrupt:
            raise _UnreliableError("a packet has no timestamp or is corrupt")
        stamps.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    stamps.sort()
    keys.sort()
    if not stamps or not keys or keys[0] != stamps[0] or len(set(stamps)) != len(stamps):
        raise _UnreliableError("the timestamps of the packets do not tell the frames apart")
    return stamps, keys


def _frame_at(decoder: Iterator[Any], stamp: int) -> Any:
    for frame in decoder:
        if frame.pts is None or frame.pts > stamp:
            break
        if frame.pts == stamp:
            if frame.is_corrupt:
                break
            return frame
    raise _UnreliableError(f"no frame at timestamp {stamp}")


def _in_full(
    place: Path | bytes, choose: Choice, max_pixels: int | None, name: str
) -> tuple[dict[int, Frame], Timeline]:
    """Twice through the file: the first time to see what there is, so that the frames need not all be held."""
    timeline = _full_timeline(place, name)
    wanted = set(choose(timeline))
    with _open(place) as container:
        decoded = enumerate(_all_frames(container, _stream(container, name)))
        frames = {index: _rgb(frame, max_pixels) for index, frame in decoded if index in wanted}
    if len(frames) != len(wanted):
        raise MediaError(f"video {name} cannot be decoded: it changed while it was read")
    return frames, timeline


def _full_timeline(place: Path | bytes, name: str) -> Timeline:
    with _open(place) as container:
        stream = _stream(container, name)
        announced = stream.frames
        stamps = [frame.pts for frame in _all_frames(container, stream)]
        rate, base = stream.average_rate, stream.time_base
    if not stamps:
        raise MediaError(f"video {name} cannot be decoded: no frame of it is whole")
    if announced > len(stamps):
        _log.warning("video %s announces %d frames, but only %d can be decoded", name, announced, len(stamps))
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) == len(stamps) and all(a < b for a, b in itertools.pairwise(known)):
        return Timeline.measured(_seconds(known, base), rate)
    return Timeline.regular(len(stamps), rate or 1)


def _all_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Every frame that can be decoded, whatever packets between them cannot."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            break
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue


def _seconds(stamps: list[int], base: Fraction) -> list[float]:
    return [float((stamp - stamps[0]) * base) for stamp in stamps]


def _rgb(frame: Any, max_pixels: int | None) -> Frame:
    """Height × width × 3, turned as the file says a player has to, and of at most ``max_pixels``."""
    array = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    if turns:
        array = np.rot90(array, turns)
    return fit_frame(array, max_pixels)

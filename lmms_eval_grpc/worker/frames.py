"""Messages over a byte stream: each frame is a varint length and that many bytes of one protobuf message.

The same bytes are written and read by blocking sockets (template, worker) and by asyncio (server).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)

MAX_FRAME_BYTES = 512 * 1024 * 1024
"""Larger than any results document; smaller than what a misread length would ask for."""

_MAX_LENGTH_BYTES = 5
_CHUNK = 1024 * 1024
_MAX_DESCRIPTORS = 8
_LOST = -1
"""In the place of a descriptor that could not be received."""


class FrameError(Exception):
    """What arrived is no frame, or the stream ended inside one."""


def encode_frame(message: Message) -> bytes:
    """``message`` as one frame.

    Raises:
        FrameError: the message is longer than :data:`MAX_FRAME_BYTES`.
    """
    body = message.SerializeToString()
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a {type(message).__name__} of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _encode_length(len(body)) + body


def write_frame(sock: socket.socket, message: Message) -> None:
    """Writes one frame to a blocking socket. Raises OSError when the other end is gone."""
    sock.sendall(encode_frame(message))


class FrameBuffer:
    """Cuts frames out of bytes as they arrive. Does no I/O."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def empty(self) -> bool:
        """Whether no part of a frame is waiting for its rest."""
        return not self._data

    def feed(self, data: bytes) -> None:
        """Adds what arrived."""
        self._data += data

    def take(self, kind: type[M]) -> M | None:
        """The next frame; None until all of it is there.

        Raises:
            FrameError: these bytes are no frame.
        """
        header = _decode_length(self._data)
        if header is None:
            return None
        length, start = header
        if len(self._data) < start + length:
            return None
        message = _parse(kind, bytes(memoryview(self._data)[start : start + length]))
        del self._data[: start + length]
        return message


class FrameReader:
    """Reads frames, and file descriptors sent beside them, from a blocking Unix socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = FrameBuffer()
        self._descriptors: deque[int] = deque()

    def read(self, kind: type[M]) -> M | None:
        """The next frame, waited for; None when the other end closed the stream between two frames.

        Raises:
            FrameError: the stream is damaged, or ended inside a frame.
        """
        while (message := self.take(kind)) is None:
            if not self.receive():
                return None
        return message

    def take(self, kind: type[M]) -> M | None:
        """The next frame, if all of it was received already. Raises :class:`FrameError` when it is none."""
        return self._buffer.take(kind)

    def receive(self) -> bool:
        """Waits for more bytes; False when the other end closed the stream between two frames.

        Raises:
            FrameError: the stream ended inside a frame.
        """
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._sock, _CHUNK, _MAX_DESCRIPTORS)
        except ConnectionResetError:
            data, descriptors, flags = b"", [], 0
        self._descriptors.extend(descriptors)
        if flags & socket.MSG_CTRUNC:
            # The kernel drops what this process may not open any more. Later ones must not take its place.
            self._descriptors.append(_LOST)
        self._buffer.feed(data)
        if not data and not self._buffer.empty:
            raise FrameError("the stream ended inside a frame")
        return bool(data)

    def take_descriptor(self) -> int:
        """The oldest file descriptor that came with the frames read so far; the caller owns it.

        Raises:
            FrameError: none came.
            OSError: this process had no room for it.
        """
        if not self._descriptors:
            raise FrameError("a frame that needs a file descriptor came without one")
        descriptor = self._descriptors.popleft()
        if descriptor == _LOST:
            raise OSError(errno.EMFILE, "too many open files to receive another")
        return descriptor


async def read_frame(reader: asyncio.StreamReader, kind: type[M]) -> M | None:
    """The next frame from an asyncio stream; None when the other end closed the stream between two frames.

    Raises:
        FrameError: the stream is damaged, or ended inside a frame.
    """
    prefix = bytearray()
    while (header := _decode_length(prefix)) is None:
        byte = await reader.read(1)
        if not byte:
            if prefix:
                raise FrameError(f"the stream ended inside the length of a {kind.__name__} frame")
            return None
        prefix += byte
    try:
        body = await reader.readexactly(header[0])
    except asyncio.IncompleteReadError as error:
        raise FrameError(
            f"the stream ended inside a {kind.__name__} frame, after {len(error.partial)} of {header[0]} bytes"
        ) from error
    return _parse(kind, body)


def _encode_length(length: int) -> bytes:
    encoded = bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def _decode_length(data: bytearray) -> tuple[int, int] | None:
    """(length, bytes that it took), or None when more bytes are needed."""
    length = 0
    for position, byte in enumerate(data[:_MAX_LENGTH_BYTES]):
        length |= (byte & 0x7F) << (7 * position)
        if not byte & 0x80:
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a frame claims {length} bytes, over the limit of {MAX_FRAME_BYTES}: not a frame")
            return length, position + 1
    if len(data) >= _MAX_LENGTH_BYTES:
        raise FrameError("a frame's length has no end: not a frame")
    return None


def _parse(kind: type[M], body: bytes) -> M:
    try:
        message = kind()
        message.ParseFromString(body)
    except DecodeError as error:
        raise FrameError(f"{len(body)} bytes are not a {kind.__name__}: {error}") from error
    return message

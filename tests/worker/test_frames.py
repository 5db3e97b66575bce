"""Frames over blocking sockets and asyncio streams."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading

import pytest

from lmms_eval_grpc.worker import frames
from lmms_eval_grpc.worker.frames import FrameBuffer, FrameError, FrameReader, encode_frame, read_frame, write_frame
from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob, TemplateCommand, WorkerCommand, WorkerEvent


def _progress(size: int) -> WorkerEvent:
    return WorkerEvent(progress_json="ä" * (size // 2))


@pytest.mark.parametrize("size", [0, 1, 126, 130, 20_000, 70_000])
def test_a_frame_is_read_as_it_was_written(size: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write_frame(ours, _progress(size))
        ours.close()
        reader = FrameReader(theirs)
        assert reader.read(WorkerEvent) == _progress(size)
        assert reader.read(WorkerEvent) is None


def test_frames_are_cut_out_of_bytes_that_arrive_one_by_one() -> None:
    events = [_progress(0), _progress(300), WorkerEvent(), _progress(2)]
    buffer = FrameBuffer()
    seen = []
    for byte in b"".join(map(encode_frame, events)):
        buffer.feed(bytes([byte]))
        while (event := buffer.take(WorkerEvent)) is not None:
            seen.append(event)
    assert seen == events
    assert buffer.empty


async def test_a_results_document_of_forty_megabytes_passes_from_a_blocking_socket_to_a_stream() -> None:
    document = WorkerEvent(completed_json="x" * 40_000_000)
    ours, theirs = socket.socketpair()
    with ours:
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        writing = threading.Thread(target=write_frame, args=(ours, document))
        writing.start()
        assert await read_frame(reader, WorkerEvent) == document
        writing.join()
        ours.close()
        assert await read_frame(reader, WorkerEvent) is None
        writer.close()


async def test_a_stream_that_ends_inside_a_frame_is_an_error_and_not_an_end() -> None:
    whole = encode_frame(_progress(300))
    for cut in (1, 2, 100):
        reader = asyncio.StreamReader()
        reader.feed_data(whole[:cut])
        reader.feed_eof()
        with pytest.raises(FrameError, match="ended inside"):
            await read_frame(reader, WorkerEvent)


def test_a_socket_that_ends_inside_a_frame_is_an_error_and_not_an_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode_frame(_progress(300))[:-1])
        ours.close()
        with pytest.raises(FrameError, match="ended inside"):
            FrameReader(theirs).read(WorkerEvent)


@pytest.mark.parametrize(
    ("garbage", "complaint"),
    [
        (b"\xff" * 16, "no end"),
        (b"\xff\xff\xff\xff\x7f", "over the limit"),
        (b"\x05hello", "not a WorkerEvent"),
    ],
)
async def test_garbage_is_told_from_a_frame(garbage: bytes, complaint: str) -> None:
    buffer = FrameBuffer()
    buffer.feed(garbage)
    with pytest.raises(FrameError, match=complaint):
        buffer.take(WorkerEvent)
    reader = asyncio.StreamReader()
    reader.feed_data(garbage)
    with pytest.raises(FrameError, match=complaint):
        await read_frame(reader, WorkerEvent)


def test_a_message_over_the_limit_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 100)
    with pytest.raises(FrameError, match="over the limit of 100"):
        encode_frame(_progress(200))


def test_descriptors_arrive_in_the_order_of_their_frames() -> None:
    ours, theirs = socket.socketpair()
    pipes = [os.pipe() for _ in range(3)]
    with ours, theirs:
        for number, (_, write_end) in enumerate(pipes):
            command = TemplateCommand()
            command.fork_worker.worker_id = number
            socket.send_fds(ours, [encode_frame(command)], [write_end])
        reader = FrameReader(theirs)
        for number, (read_end, write_end) in enumerate(pipes):
            command_read = reader.read(TemplateCommand)
            assert command_read is not None
            assert command_read.fork_worker.worker_id == number
            received = reader.take_descriptor()
            os.write(received, b"%d" % number)
            assert os.read(read_end, 10) == b"%d" % number
            for descriptor in (received, read_end, write_end):
                os.close(descriptor)
        with pytest.raises(FrameError, match="without one"):
            reader.take_descriptor()


def test_a_descriptor_that_is_lost_leaves_the_later_ones_with_their_frames() -> None:
    ours, theirs = socket.socketpair()
    pipes = [os.pipe() for _ in range(2)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours, theirs:
        reader = FrameReader(theirs)
        for number, (_, write_end) in enumerate(pipes):
            command = TemplateCommand()
            command.fork_worker.worker_id = number
            socket.send_fds(ours, [encode_frame(command)], [write_end])
            lowest_free = os.dup(write_end)
            os.close(lowest_free)
            if number == 0:
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
            try:
                assert reader.receive()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with pytest.raises(OSError, match="too many open files"):
            reader.take_descriptor()
        received = reader.take_descriptor()
        os.write(received, b"second")
        assert os.read(pipes[1][0], 10) == b"second"
        for descriptor in (received, *pipes[0], *pipes[1]):
            os.close(descriptor)


def test_a_command_keeps_every_field() -> None:
    run = RunJob(job_id="1", spec_json="{}", job_dir="d", device="cpu", include_paths=["a"], attempt=2, torch_threads=3)
    buffer = FrameBuffer()
    buffer.feed(encode_frame(WorkerCommand(run=run)))
    command = buffer.take(WorkerCommand)
    assert command is not None
    assert command.run == run

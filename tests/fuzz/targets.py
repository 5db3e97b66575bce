"""What reads bytes that others wrote, each as a function of bytes that raises only where there is a mistake.

Hypothesis gives them what it makes (``test_readers``), atheris what reaches new code (``coverage``).
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lmms_eval_grpc.cli import arguments, config_file
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.client.address import parse_address
from lmms_eval_grpc.client.arguments import parse_arg_string, to_json_value
from lmms_eval_grpc.engine.run.log import FORMAT_VERSION, RunLog, digest_header
from lmms_eval_grpc.engine.scoring.reasoning import parse_tags
from lmms_eval_grpc.engine.tasks.config import parse_task_config, resolve_for_model
from lmms_eval_grpc.engine.tasks.index_files import read_task_file
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError, YamlReader
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.errors import InvalidRequest
from lmms_eval_grpc.jobs.events import EventBody
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import JobError, JobResult
from lmms_eval_grpc.server.config_sources import load_args
from lmms_eval_grpc.server.paging import make_token, read_token
from lmms_eval_grpc.server.settings import ConfigError
from lmms_eval_grpc.server.streams import write_samples
from lmms_eval_grpc.store.samples import read_samples
from lmms_eval_grpc.trackers.names import TrackerNameError, parse_tracker
from lmms_eval_grpc.worker.frames import FrameBuffer, FrameError, encode_frame
from lmms_eval_grpc.worker.v1.worker_pb2 import WorkerCommand, WorkerEvent

Reader = Callable[[bytes], None]

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES = 64 * 1024


def frames(data: bytes) -> None:
    """Frames between processes: they come in pieces of any size, and a whole one is written as it was read."""
    for kind in (WorkerEvent, WorkerCommand):
        whole, pieces = FrameBuffer(), FrameBuffer()
        whole.feed(data)
        read = [*_take_all(whole, kind)]
        again: list[Any] = []
        for start in range(0, len(data), 7):
            pieces.feed(data[start : start + 7])
            again += _take_all(pieces, kind)
        assert [one.SerializeToString() for one in read] == [one.SerializeToString() for one in again]
        for message in read:
            buffer = FrameBuffer()
            buffer.feed(encode_frame(message))
            assert buffer.take(kind) is not None


def _take_all(buffer: FrameBuffer, kind: Any) -> Iterator[Any]:
    with suppress(FrameError):
        while (message := buffer.take(kind)) is not None:
            yield message


def records(data: bytes) -> None:
    """Jobs, results and events of the store and of workers; what was read is written as it was read."""
    text = data.decode("utf-8", "replace")
    for kind in (Job, JobResult, EventBody, JobError):
        with suppress(codec.DecodeError):
            value: Any = codec.decode(kind, text)
            written = codec.encode(value)
            assert codec.encode(codec.decode(kind, written)) == written


def task_yaml(data: bytes) -> None:
    """A task's YAML file."""
    with _file(data, "task.yaml") as path, suppress(TaskFileError):
        reader = YamlReader()
        read_task_file(reader, path)
        config = parse_task_config(reader.read(path), str(path))
        resolve_for_model(config, "idefics3", {"max_new_tokens": 4})


def server_yaml(data: bytes) -> None:
    """The server's configuration as YAML."""
    with _file(data, "server.yaml") as path, suppress(ConfigError):
        load_args({}, {}, path)


def server_toml(data: bytes) -> None:
    """The server's configuration as TOML."""
    with _file(data, "server.toml") as path, suppress(ConfigError):
        load_args({}, {}, path)


def server_environment(data: bytes) -> None:
    """The server's configuration in environment variables."""
    lines = data.decode("utf-8", "replace").splitlines()
    pairs = (line.partition("=") for line in lines)
    with suppress(ConfigError):
        load_args({}, {f"LMMS_EVAL_GRPC_{name}": value for name, _, value in pairs})


def eval_yaml(data: bytes) -> None:
    """The file of ``eval --config``."""
    with _file(data, "eval.yaml") as path, suppress(UsageError):
        config_file.read_runs(path)


def argument_string(data: bytes) -> None:
    """``k=v,…`` strings: what is read can travel."""
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        values = parse_arg_string(text)
        assert all(key and key == key.strip() for key in values)
        with suppress(ValueError):  # infinite numbers cannot
            json.dumps(to_json_value(values, "model_args"), allow_nan=False)


def command_line(data: bytes) -> None:
    """Words of the command line."""
    text = data.decode("utf-8", "replace")
    for parse in (
        *(arguments.parse_names, arguments.parse_states, arguments.parse_mapping, arguments.parse_number),
        *(arguments.parse_label, arguments.parse_duration, arguments.parse_natural, arguments.parse_bytes),
        arguments.parse_count,
    ):
        # What argparse tells as a wrong argument.
        with suppress(argparse.ArgumentTypeError, ValueError, TypeError):
            parse(text)


def page_token(data: bytes) -> None:
    """Tokens of pages."""
    text = data.decode("utf-8", "replace")
    kind: Any
    for kind in (int, str):
        with suppress(InvalidRequest):
            position = read_token(text, "jobs", kind)
            if position is not None:
                assert type(position) is kind
                assert read_token(make_token(position, "jobs"), "jobs", kind) == position


def address(data: bytes) -> None:
    """Addresses of servers."""
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        found = parse_address(text)
        assert found.target
        assert parse_address(found.target).target == found.target


def names(data: bytes) -> None:
    """Reasoning tags and trackers."""
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        assert all(isinstance(tag, str) for pair in parse_tags(text) for tag in pair)
    with suppress(TrackerNameError):
        assert parse_tracker(text).target


def samples(data: bytes) -> None:
    """A job's sample records: read from any place, every whole line is told once, or left out."""
    with _file(data, "samples.jsonl") as path:
        cursor = 0
        while True:
            batch = read_samples(path, cursor, 1000)
            write_samples(batch.records, "")
            if batch.next_cursor == cursor:
                break
            cursor = batch.next_cursor
        assert cursor <= len(data)
        for place in (1, len(data) // 2, len(data), len(data) + 1, 2**63 - 1, -1):
            with suppress(InvalidRequest):
                read_samples(path, place, 1000)


_HEADER = {"model": "m"}


def run_log(data: bytes) -> None:
    """A run log with anything behind its first line: taken up, and sound again."""
    first = json.dumps({"kind": "header", "version": FORMAT_VERSION, "digest": digest_header(_HEADER)}).encode()
    with _file(first + b"\n" + data, "run_log.jsonl") as path:
        with RunLog(path, _HEADER) as log:
            assert log.taken_up
            known = dict(log.answers)
        with RunLog(path, _HEADER) as log:
            assert log.taken_up
            assert repr(log.answers) == repr(known)  # in which NaN is NaN
            assert not math.isnan(log.generated_tokens)


READERS: Mapping[str, Reader] = {
    reader.__name__: reader
    for reader in (
        *(frames, records, task_yaml, server_yaml, server_toml, server_environment, eval_yaml, argument_string),
        *(command_line, page_token, address, names, samples, run_log),
    )
}


@contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    path = _folder() / name
    path.write_bytes(data)
    try:
        yield path
    finally:
        for left in path.parent.iterdir():
            left.unlink()


@functools.cache
def _folder() -> Path:
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))


def kept(name: str) -> list[Path]:
    """The files of a reader's corpus."""
    return sorted((CORPUS / name).glob("*"))

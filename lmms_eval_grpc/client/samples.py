"""A job's samples: one by one, as a list, a pandas DataFrame, a Hugging Face Dataset or a JSON Lines file.

pandas and datasets are looked for when they are asked for; the rest needs neither.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from lmms_eval_grpc.client import dictionaries
from lmms_eval_grpc.client.aio_transport import AioTransport
from lmms_eval_grpc.client.base import Settings
from lmms_eval_grpc.client.sample_tables import load, make_dataset, tabulate, to_line
from lmms_eval_grpc.client.streams import Samples
from lmms_eval_grpc.client.transport import Transport


def _empty(file: TextIO) -> None:
    if Path(file.name).is_file():  # not a pipe or a terminal
        file.truncate(0)


class SampleReader:
    """The samples of one job. Each method reads them anew, from the first; following, until the job ends."""

    def __init__(self, read: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """`read` begins to read them."""
        self._read = read

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields the records, as `iter_samples` does."""
        return self._read()

    def to_list(self) -> list[dict[str, Any]]:
        """The records, as `iter_samples` yields them."""
        return list(self)

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row per record and a column ``scores.NAME`` per score.

        A score is a number (NaN where a record lacks it), unless some record's is not: then all are JSON texts.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = load("pandas")
        return pandas.DataFrame(tabulate(self))

    def to_dataset(self) -> Any:
        """A ``datasets.Dataset`` with the columns of `to_pandas`.

        Raises:
            ImportError: datasets is not installed.
        """
        datasets = load("datasets")
        return make_dataset(datasets, tabulate(self))

    def to_jsonl(self, path: str | PathLike[str]) -> int:
        """Writes a line of JSON per record, as soon as it is there, in place of what the file held. When nothing can be
        had, because there is no such job, say, the file is left as it is.

        Returns:
            Number of lines.
        """
        records = iter(self)
        lines = 0
        with Path(path).open("a", encoding="utf-8", buffering=1) as file:
            record = next(records, None)
            _empty(file)
            while record is not None:
                file.write(to_line(record))
                lines += 1
                record = next(records, None)
        return lines


class AsyncSampleReader:
    """The same for asyncio: iterate with ``async for``, await the methods."""

    def __init__(self, read: Callable[[], AsyncIterator[dict[str, Any]]]) -> None:
        self._read = read

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self._read()

    async def to_list(self) -> list[dict[str, Any]]:
        return [record async for record in self]

    async def to_pandas(self) -> Any:
        pandas = load("pandas")
        return pandas.DataFrame(tabulate(await self.to_list()))

    async def to_dataset(self) -> Any:
        datasets = load("datasets")
        return make_dataset(datasets, tabulate(await self.to_list()))

    async def to_jsonl(self, path: str | PathLike[str]) -> int:
        records = aiter(self)
        lines = 0
        # The event loop writes the lines itself: each is short, and buffered by the system.
        with Path(path).open("a", encoding="utf-8", buffering=1) as file:  # noqa: ASYNC230
            record = await anext(records, None)
            _empty(file)
            while record is not None:
                file.write(to_line(record))
                lines += 1
                record = await anext(records, None)
        return lines


class SampleMethods:
    """Part of `EvalClient`."""

    _settings: Settings
    _transport: Transport

    def iter_samples(self, job_id: str, task: str | None = None, follow: bool = False) -> Iterator[dict[str, Any]]:
        """Yields the job's per-sample records, each once, in the order in which they were scored.

        Args:
            job_id: The job.
            task: Only this task's. None: all.
            follow: Go on until the job ends. Otherwise stop after what is there.

        Raises:
            SamplesNotLogged: the job was submitted without log_samples.
            InvalidRequest: the job has completed, and `task` is none of its tasks.
        """
        state = Samples(job_id, task, follow)
        stream = self._transport.follow(
            lambda stub: stub.StreamSamples, state, self._settings.reconnection(f"reading samples of job {job_id}")
        )
        return (dictionaries.sample(record) for record in stream)

    def samples(self, job_id: str, task: str | None = None, follow: bool = False) -> SampleReader:
        """The job's per-sample records, to iterate over or to take whole: ``to_list()``, ``to_pandas()``,
        ``to_dataset()``, ``to_jsonl(path)``.

        Nothing is read before that. Arguments and errors are those of `iter_samples`.
        """
        return SampleReader(lambda: self.iter_samples(job_id, task, follow))


class AsyncSampleMethods:
    """Part of `AsyncEvalClient`."""

    _settings: Settings
    _transport: AioTransport

    async def iter_samples(
        self, job_id: str, task: str | None = None, follow: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        state = Samples(job_id, task, follow)
        stream = self._transport.follow(
            lambda stub: stub.StreamSamples, state, self._settings.reconnection(f"reading samples of job {job_id}")
        )
        async with aclosing(stream):
            async for record in stream:
                yield dictionaries.sample(record)

    def samples(self, job_id: str, task: str | None = None, follow: bool = False) -> AsyncSampleReader:
        return AsyncSampleReader(lambda: self.iter_samples(job_id, task, follow))

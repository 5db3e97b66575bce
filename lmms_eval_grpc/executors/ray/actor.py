"""The actor that runs jobs on a node of the cluster, by the executor that a server there would use."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import lmms_eval_grpc
from lmms_eval_grpc.executors.devices import UnknownDevice
from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.executors.local_worker import LocalExecution
from lmms_eval_grpc.executors.ray.job_files import FileChange, FolderSource, apply
from lmms_eval_grpc.jobs.events import Completed, Failed, HostLost, NotStarted, WorkerReport
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import EvaluationResult, JobError, JobErrorCode, Progress, TaskResult

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 2.0
"""Longest that the actor keeps a call for news waiting; the next one renews the lease."""
_FOLDER_PREFIX = "lmms-eval-grpc-job-"
_ABANDONED_AFTER = 60.0
"""Seconds after which a folder that nobody has locked is one that somebody left."""
_FILES_EVERY = 0.5
"""Seconds between two looks at the files of a job whose folder the server does not see."""


@dataclass(frozen=True, slots=True)
class ActorSettings:
    """What an actor is made for."""

    devices: int
    gpus: bool
    """Whether ``devices`` counts GPUs, which Ray grants; else CPU slots."""
    node_slots: int
    """Slots of the node, among which its cores are shared out."""
    include_paths: tuple[str, ...]
    torch_threads: int | None
    use_template: bool
    cancel_grace: float
    heartbeat_timeout: float | None
    stall_timeout: float | None
    environment: Mapping[str, str]
    lease: float


@dataclass(frozen=True, slots=True)
class Greeting:
    """What an actor says once it is ready."""

    version: str
    problem: str = ""
    """Why it cannot run jobs; empty when it can."""


@dataclass(frozen=True, slots=True)
class News:
    """What has happened since the driver last asked."""

    reports: tuple[tuple[int, WorkerReport], ...]
    """With their numbers; told again until the driver has acknowledged them."""
    files: tuple[tuple[int, FileChange], ...]


class JobActor:
    """Runs one job at a time on the devices that Ray has granted to it.

    Its methods run on one event loop. While a job runs, somebody has to ask for :meth:`news`: where nobody has for the
    time of the lease the job is ended, because by then its server takes this node for dead and the job runs elsewhere.
    """

    def __init__(self, settings: ActorSettings) -> None:
        self._settings = settings
        self._executor = LocalExecutor(
            LocalExecutorSettings(
                devices=("cuda",) if settings.gpus else ("cpu",) * settings.devices,
                include_paths=tuple(map(Path, settings.include_paths)),
                cancel_grace=settings.cancel_grace,
                heartbeat_timeout=settings.heartbeat_timeout,
                stall_timeout=settings.stall_timeout,
                environment=settings.environment,
                prepare_next=False,
                torch_threads=settings.torch_threads or _share_of_cores(settings.devices, settings.node_slots),
                use_template=settings.use_template,
            )
        )
        self._execution: LocalExecution | None = None
        self._running: asyncio.Task[None] | None = None
        self._folder: _LocalFolder | None = None
        self._reports = _Outbox[WorkerReport]()
        self._files = _Outbox[FileChange]()
        self._asked = 0.0

    async def greet(self) -> Greeting:
        """Gets ready: starts the template process and looks at the devices."""
        try:
            await self._executor.start()
        except UnknownDevice as error:
            return Greeting(lmms_eval_grpc.__version__, f"Ray granted {self._settings.devices} GPUs, but {error}")
        found = len(self._executor.devices)
        if found != self._settings.devices:
            problem = f"Ray granted {self._settings.devices} GPUs, but the driver shows {found} of them"
            return Greeting(lmms_eval_grpc.__version__, problem)
        return Greeting(lmms_eval_grpc.__version__)

    async def ready(self) -> None:
        """Answers, and so shows that the actor is there still."""

    async def sees(self, folder: str, name: str, token: str) -> bool:
        """Whether a file that the server has just written is here too, and the folder can be written to."""
        return await asyncio.to_thread(_sees, Path(folder), name, token)

    async def receive(self, change: FileChange) -> None:
        """Takes a part of the job's folder, which the node does not see. Before :meth:`run`."""
        if self._folder is None:
            self._folder = await asyncio.to_thread(_LocalFolder)
        await asyncio.to_thread(self._folder.receive, change)

    async def run(self, job: Job, job_dir: str, shared: bool) -> None:
        """Starts a job, in the server's own folder if that is ``shared``, else in one that was received or is empty."""
        self._reports, self._files = _Outbox(), _Outbox()
        if not shared and self._folder is None:
            self._folder = await asyncio.to_thread(_LocalFolder)
        folder = Path(job_dir) if self._folder is None else self._folder.path
        # A worker of an earlier attempt that had the same node and outlived its actor.
        await self._executor.clear_leftovers([folder])
        self._asked = asyncio.get_running_loop().time()
        self._execution = await self._executor.execute(job, self._executor.devices, folder)
        self._running = asyncio.create_task(self._see_to_its_end(self._execution, job_dir))

    async def news(self, reports_seen: int, files_seen: int) -> News:
        """What is new since then; waits a moment for it."""
        self._asked = asyncio.get_running_loop().time()
        self._reports.acknowledge(reports_seen)
        self._files.acknowledge(files_seen)
        if not (self._reports.waiting or self._files.waiting):
            changes = [asyncio.ensure_future(box.changed.wait()) for box in (self._reports, self._files)]
            await asyncio.wait(changes, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for change in changes:
                change.cancel()
        return News(tuple(self._reports.waiting), tuple(self._files.waiting))

    async def cancel(self, reason: str) -> None:
        """Asks the worker to stop, and kills it after its grace."""
        if self._execution is not None:
            await self._execution.cancel(reason)

    async def end(self) -> None:
        """Kills the worker; returns when nothing of it is left."""
        if self._execution is not None:
            await self._execution.end()

    async def close(self) -> None:
        """Ends everything; the actor is of no use afterwards."""
        await self._executor.stop()
        if self._running is not None:
            await asyncio.wait({self._running})
        await self._forget_folder()

    async def _see_to_its_end(self, execution: LocalExecution, job_dir: str) -> None:
        """Has the driver hear a last word, whatever happens here: it would ask for one for ever."""
        try:
            last = await self._accompany(execution, job_dir)
        except Exception as error:
            logger.exception("the actor failed")
            await execution.end()
            message = f"the Ray actor failed: {type(error).__name__}: {error}"
            last = Failed(JobError(JobErrorCode.INTERNAL, "EXECUTOR_FAILED", message))
        self._execution = None
        self._reports.put(last)

    async def _accompany(self, execution: LocalExecution, job_dir: str) -> WorkerReport:
        """Passes on what the job reports and writes, up to its last word, which it returns."""
        loop = asyncio.get_running_loop()
        collecting = asyncio.create_task(self._collect(execution))
        expired = False
        while not collecting.done():
            await asyncio.wait({collecting}, timeout=min(_FILES_EVERY, self._settings.lease / 4))
            if self._folder is not None:
                self._files.put(*await asyncio.to_thread(lambda source: list(source.growth()), self._folder.source))
            if not expired and loop.time() - self._asked > self._settings.lease:
                expired = True
                await execution.end()
        last: WorkerReport = await collecting
        if self._folder is not None:
            self._files.put(*await asyncio.to_thread(lambda source: list(source.rest()), self._folder.source))
            last = _moved(last, self._folder.path, Path(job_dir))
            await self._forget_folder()
        if expired and not isinstance(last, Completed):
            last = HostLost(f"nobody asked for the job's reports for {self._settings.lease:g} s")
        return last

    async def _collect(self, execution: LocalExecution) -> WorkerReport:
        async for report in execution.reports():
            if not isinstance(report, Progress | TaskResult):
                return report
            self._reports.put(report)
        return NotStarted("the worker's reports ended without a last word")

    async def _forget_folder(self) -> None:
        if self._folder is not None:
            folder, self._folder = self._folder, None
            await asyncio.to_thread(folder.remove)


class _LocalFolder:
    """A job's folder on this node only. Locked while it is used, so that what a killed actor has left is found."""

    def __init__(self) -> None:
        _remove_abandoned()
        self._home = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
        self._lock = os.open(self._home, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # A folder in it, as on the server: what is beside a job's folder belongs to other jobs, and to no request.
        self.path = self._home / "job"
        self.path.mkdir()
        self.source = FolderSource(self.path)

    def remove(self) -> None:
        shutil.rmtree(self._home, ignore_errors=True)
        os.close(self._lock)

    def receive(self, change: FileChange) -> None:
        apply(self.path, change)
        self.source.know(change)


class _Outbox(Generic[T]):
    """What waits to be fetched, by number; kept until it is acknowledged, for an answer may be lost on its way."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, T]] = deque()
        self.changed = asyncio.Event()
        self._count = 0

    def put(self, *items: T) -> None:
        for item in items:
            self._count += 1
            if isinstance(item, Progress) and self.waiting and isinstance(self.waiting[-1][1], Progress):
                self.waiting.pop()
            self.waiting.append((self._count, item))
        if self.waiting:
            self.changed.set()

    def acknowledge(self, number: int) -> None:
        while self.waiting and self.waiting[0][0] <= number:
            self.waiting.popleft()
        if not self.waiting:
            self.changed.clear()


def _remove_abandoned() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        with contextlib.suppress(OSError):
            # One that is being made is not locked yet.
            if time.time() - os.fstat(descriptor).st_ctime > _ABANDONED_AFTER:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _sees(folder: Path, name: str, token: str) -> bool:
    try:
        return (folder / name).read_text(encoding="ascii") == token and os.access(folder, os.W_OK)
    except OSError:
        return False


def _share_of_cores(devices: int, node_slots: int) -> int:
    cores = len(os.sched_getaffinity(0))
    return 1 if cores <= 2 else max(1, cores * devices // max(devices, node_slots))


def _moved(report: WorkerReport, here: Path, there: Path) -> WorkerReport:
    """The report with paths of files that are ``there`` by now."""
    if not isinstance(report, Completed) or not isinstance(report.result, EvaluationResult):
        return report

    def move(path: str) -> str:
        return str(there / Path(path).relative_to(here)) if path and Path(path).is_relative_to(here) else path

    result = report.result
    paths = tuple(map(move, result.samples_paths))
    return Completed(replace(result, results_path=move(result.results_path), samples_paths=paths))

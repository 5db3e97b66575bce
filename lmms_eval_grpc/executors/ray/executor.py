"""Jobs in a Ray cluster, as the server sees it. Imports no Ray."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmms_eval_grpc.executors.base import Device
from lmms_eval_grpc.executors.local import LocalExecutor
from lmms_eval_grpc.executors.ray.driver_process import ClusterUnavailable, DriverProcess
from lmms_eval_grpc.executors.ray.job_files import ACTOR_FILE
from lmms_eval_grpc.executors.ray.messages import (
    LEASE_MARGIN,
    Cancel,
    Clear,
    Cleared,
    Connect,
    End,
    Event,
    Execute,
    Nodes,
    Reported,
)
from lmms_eval_grpc.executors.ray.slots import RaySlot, Roster
from lmms_eval_grpc.executors.report_queue import ReportQueue
from lmms_eval_grpc.jobs.events import HostLost, NotStarted, Stopped, WorkerReport
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import Progress, TaskResult
from lmms_eval_grpc.jobs.secrets import complete

__all__ = ["ClusterUnavailable", "RayExecution", "RayExecutor", "RayExecutorSettings"]

logger = logging.getLogger(__name__)

AVOIDED_FOR = 60.0
"""Seconds for which devices that Ray did not grant, or that could not be used, are no devices: another may be better,
and the next job would fare no better there."""
END_TIMEOUT = 60.0
"""Seconds that a server which stops waits for the end of its jobs before it stops the driver under them."""


@dataclass(frozen=True, slots=True)
class RayExecutorSettings:
    """How jobs run in a cluster."""

    address: str = ""
    """As ``ray.init`` takes it: ``auto``, ``host:port`` or ``ray://host:port``. Empty: a cluster on this machine that
    ends with the server."""
    cpu_slots: int | None = None
    """See :class:`~lmms_eval_grpc.executors.ray.slots.Roster`."""
    include_paths: tuple[Path, ...] = ()
    """Folders with task YAML files, for every job; each node must have them."""
    cancel_grace: float = 1.0
    """Seconds between asking a worker to stop and killing it."""
    torch_threads: int | None = None
    """Threads that torch may use in a worker. None: the node's cores, shared out among its slots."""
    use_template: bool = True
    """See :class:`~lmms_eval_grpc.executors.local.LocalExecutorSettings`."""
    heartbeat_timeout: float | None = 120.0
    """See :class:`~lmms_eval_grpc.executors.local.LocalExecutorSettings`."""
    stall_timeout: float | None = None
    """See :class:`~lmms_eval_grpc.executors.local.LocalExecutorSettings`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """See :class:`~lmms_eval_grpc.executors.local.LocalExecutorSettings`."""
    lease: float = 20.0
    """Seconds after which the job of a node that is cut off from the server has ended itself, and goes on elsewhere."""
    idle_timeout: float = 30.0
    """Seconds for which an actor keeps its devices, and its imports, for the next job. 0: not at all."""
    placement_timeout: float = 60.0
    """Seconds that Ray may take to grant a job its devices before it waits in the queue again."""


class RayExecutor:
    """An :class:`~lmms_eval_grpc.executors.base.Executor` whose devices come and go with the nodes of the cluster."""

    def __init__(self, settings: RayExecutorSettings | None = None) -> None:
        self._settings = settings or RayExecutorSettings()
        self._roster = Roster(self._settings.cpu_slots)
        self._slots: tuple[RaySlot, ...] = ()
        self._avoided: set[str] = set()
        self._driver: DriverProcess | None = None
        self._executions: dict[int, RayExecution] = {}
        self._numbers = itertools.count(1)
        self._on_change: Callable[[], None] = lambda: None
        self._clearing: asyncio.Future[None] | None = None

    @property
    def devices(self) -> tuple[Device, ...]:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`. None while the cluster cannot be reached."""
        return tuple(slot.device for slot in self._slots if slot.device.name not in self._avoided)

    @property
    def elastic(self) -> bool:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`."""
        return True

    @property
    def warm(self) -> bool:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`. Templates live and end with actors."""
        return False

    @property
    def driver_pid(self) -> int | None:
        """The driver's process, if it runs."""
        return None if self._driver is None else self._driver.pid

    def when_devices_change(self, callback: Callable[[], None]) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`."""
        self._on_change = callback

    async def start(self) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`. Returns when the cluster's nodes are known.

        Raises:
            ClusterUnavailable: Ray is not installed, or no cluster answers at the address.
        """
        settings = self._settings
        connect = Connect(
            address=settings.address,
            include_paths=tuple(str(path.absolute()) for path in settings.include_paths),
            torch_threads=settings.torch_threads,
            use_template=settings.use_template,
            cancel_grace=settings.cancel_grace,
            heartbeat_timeout=settings.heartbeat_timeout,
            stall_timeout=settings.stall_timeout,
            environment=settings.environment,
            lease=settings.lease,
            idle_timeout=settings.idle_timeout,
            placement_timeout=settings.placement_timeout,
        )
        self._driver = DriverProcess(connect, self._take, self._lost)
        await self._driver.start()

    async def stop(self) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`. A cluster that was there before stays."""
        if self._driver is None:
            return
        running = list(self._executions.values())
        for execution in running:
            self._driver.send(End(execution.number))
        if running:
            ends = [asyncio.ensure_future(execution.ended.wait()) for execution in running]
            _, late = await asyncio.wait(ends, timeout=END_TIMEOUT)
            for end in late:
                end.cancel()
        await self._driver.stop()
        for execution in list(self._executions.values()):
            execution.put(Stopped())

    async def clear_leftovers(self, job_dirs: Sequence[Path]) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`. Ray ends the actors of a server that died; this waits
        for it."""
        # A worker may have run on this very machine, of a node of the cluster or of a server with another executor.
        await LocalExecutor().clear_leftovers(job_dirs)
        actors = await asyncio.to_thread(_read_actors, job_dirs)
        if actors and self._driver is not None:
            self._clearing = asyncio.get_running_loop().create_future()
            if self._driver.send(Clear(actors)):
                await self._clearing

    async def execute(self, job: Job, devices: Sequence[Device], job_dir: Path) -> RayExecution:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`."""
        number = next(self._numbers)
        order = self._order(number, job, devices, job_dir)  # which may raise: nothing of it is kept then
        execution = RayExecution(number, devices, self._cancel)
        self._executions[number] = execution
        execution.when_ended(lambda: self._executions.pop(number, None))
        if self._driver is None or order is None or not self._driver.send(order):
            trouble = "" if self._driver is None else self._driver.trouble
            why = f"the node of {devices[0].name} has left the cluster" if order is None else trouble
            execution.put(NotStarted(why))
        return execution

    def _order(self, number: int, job: Job, devices: Sequence[Device], job_dir: Path) -> Execute | None:
        by_name = {slot.device.name: slot for slot in self._slots}
        held = [by_name[device.name] for device in devices if device.name in by_name]
        if len(held) < len(devices) or len({slot.node_id for slot in held}) != 1:
            return None
        return Execute(
            execution=number,
            job=dataclasses.replace(job, spec=complete(job.spec, job_dir)),
            node_id=held[0].node_id,
            node_name=held[0].device.host,
            devices=tuple(device.name for device in devices),
            gpus=held[0].gpu,
            node_slots=held[0].node_slots,
            job_dir=str(job_dir.absolute()),
        )

    def _cancel(self, number: int, reason: str) -> None:
        if self._driver is not None:
            self._driver.send(Cancel(number, reason))

    def _take(self, event: Event) -> None:
        match event:
            case Nodes(nodes):
                self._change(self._roster.slots(nodes))
            case Reported(number, report):
                if (execution := self._executions.get(number)) is not None:
                    if isinstance(report, NotStarted):
                        self._avoid(execution.devices)
                    execution.put(report)
            case Cleared():
                self._end_clearing()

    def _lost(self, why: str) -> None:
        """The driver is gone, and with it the actors; those of a node that is cut off end with their lease."""
        self._change(())
        self._end_clearing()
        loop = asyncio.get_running_loop()
        over = self._settings.lease + LEASE_MARGIN
        for execution in self._executions.values():
            loop.call_later(over, execution.put, Stopped() if execution.cancelled else HostLost(why))

    def _change(self, slots: tuple[RaySlot, ...]) -> None:
        if slots != self._slots:
            logger.info("devices of the cluster: %s", ", ".join(slot.device.name for slot in slots) or "none")
            self._slots = slots
            self._on_change()

    def _avoid(self, devices: Sequence[Device]) -> None:
        names = {device.name for device in devices}

        def heed_again() -> None:
            self._avoided -= names
            self._on_change()

        self._avoided |= names
        asyncio.get_running_loop().call_later(AVOIDED_FOR, heed_again)
        self._on_change()

    def _end_clearing(self) -> None:
        if self._clearing is not None and not self._clearing.done():
            self._clearing.set_result(None)


class RayExecution:
    """An :class:`~lmms_eval_grpc.executors.base.Execution` in the cluster."""

    def __init__(self, number: int, devices: Sequence[Device], cancel: Callable[[int, str], None]) -> None:
        self.number = number
        self.devices = tuple(devices)
        self.cancelled = False
        self.ended = asyncio.Event()
        """Set after the last word."""
        self._cancel = cancel
        self._reports = ReportQueue()
        self._on_end: Callable[[], object] = lambda: None

    async def reports(self) -> AsyncIterator[WorkerReport]:
        """See :class:`~lmms_eval_grpc.executors.base.Execution`. For one reader; of progress that was not read in time
        only the newest is kept."""
        async for report in self._reports.read():
            yield report

    async def cancel(self, reason: str) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Execution`."""
        if not self.cancelled:
            self.cancelled = True
            self._cancel(self.number, reason)

    def when_ended(self, callback: Callable[[], object]) -> None:
        """Has ``callback`` called after the last word."""
        self._on_end = callback

    def put(self, report: WorkerReport) -> None:
        """Takes a report; nothing more after the last word."""
        if self.ended.is_set():
            return
        self._reports.put(report)
        if not isinstance(report, Progress | TaskResult):
            self._reports.close()
            self.ended.set()
            self._on_end()


def _read_actors(job_dirs: Sequence[Path]) -> tuple[str, ...]:
    names = set()
    for job_dir in job_dirs:
        try:
            names.add((job_dir / ACTOR_FILE).read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError):
            continue
    return tuple(sorted(names - {""}))

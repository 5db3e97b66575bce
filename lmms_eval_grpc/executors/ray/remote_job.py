"""One attempt of one job, from its actor's placement to its last word."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import lmms_eval_grpc
from lmms_eval_grpc.executors.base import is_shortage
from lmms_eval_grpc.executors.ray import job_files
from lmms_eval_grpc.executors.ray.hosts import Host, Hosts
from lmms_eval_grpc.executors.ray.messages import LEASE_MARGIN, Connect, Execute
from lmms_eval_grpc.jobs.events import HostLost, NotStarted, Stopped, WorkerReport
from lmms_eval_grpc.jobs.results import JobStage, Progress, TaskResult

logger = logging.getLogger(__name__)

STOP_TIMEOUT = 30.0
"""Seconds beyond the grace that an actor may take to stop its worker before Ray ends it."""
DISK_PAUSE = 1.0
"""Seconds until files that this machine had no room for are written again."""
RETRY_PAUSE = 0.5
"""Seconds until an actor that could not be reached just now is asked again."""


class RemoteJob:
    """Runs an order of the server."""

    def __init__(self, order: Execute, settings: Connect, hosts: Hosts) -> None:
        self.order = order
        self._settings = settings
        self._hosts = hosts
        self._host: Host | None = None
        self._started = False
        self._reachable = True
        self._stop = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    def cancel(self, reason: str) -> None:
        """Has the worker stopped."""
        self._ask_to_stop("cancel", reason, self._settings.cancel_grace + STOP_TIMEOUT)

    def end(self) -> None:
        """Has the worker killed."""
        self._ask_to_stop("end", None, STOP_TIMEOUT)

    async def abandon(self) -> None:
        """Ends the actor, whatever it is at."""
        if self._host is not None:
            await self._hosts.end(self._host)

    async def reports(self) -> AsyncIterator[WorkerReport]:
        """What the worker reports; the last word comes when nothing is left of it."""
        from ray.exceptions import RayError

        yield Progress(JobStage.STARTING)
        try:
            last = await self._place()
            if last is None and self._host is not None:
                async for report in self._follow(self._host):
                    if isinstance(report, Progress | TaskResult):
                        yield report
                    else:
                        last = report
        except RayError as error:
            why = f"the job could not be started on {self.order.node_name}: {_describe(error)}"
            last = await self._lost(why, asyncio.get_running_loop().time()) if self._started else NotStarted(why)
        except OSError as error:
            if self._started or not is_shortage(error):
                raise
            last = NotStarted(f"the job's folder cannot be written: {error}")
        if self._stopping is not None:
            self._stopping.cancel()
        if self._host is not None:
            # An actor whose job has ended can have the next; of the others nobody knows how they are.
            if isinstance(last, NotStarted | HostLost) or not (self._started and self._reachable):
                await self._hosts.end(self._host)
            else:
                self._hosts.give_back(self._host)
        yield last if last is not None else Stopped()

    async def _place(self) -> WorkerReport | None:
        """Has Ray place an actor and starts the job there; its last word if it does not come to that."""
        order = self.order
        host = self._host = await self._hosts.take(order)
        await asyncio.to_thread(_note_actor, Path(order.job_dir), host.name)
        if not host.greeted:
            greeting = await self._unless_stopped(host.actor.greet.remote())
            if self._stop.is_set():
                return Stopped()
            if greeting is None:
                seconds = self._settings.placement_timeout
                return NotStarted(
                    f"no actor was ready on {order.node_name} within {seconds:g} s: somebody else holds its devices, or"
                    " it is very busy"
                )
            if greeting.version != lmms_eval_grpc.__version__:
                return NotStarted(
                    f"{order.node_name} has lmms-eval-grpc {greeting.version}, and the server"
                    f" {lmms_eval_grpc.__version__}; install the same on both"
                )
            if greeting.problem:
                return NotStarted(f"{order.node_name}: {greeting.problem}")
            host.greeted = True
        shared = await self._shares_folder(host)
        if self._stop.is_set():
            return Stopped()
        self._started = True
        await host.actor.run.remote(order.job, order.job_dir, shared)
        if self._stop.is_set():
            await host.actor.end.remote()
        return None

    async def _shares_folder(self, host: Host) -> bool:
        """Whether the node sees the job's folder; where it does not it gets a copy."""
        folder = Path(self.order.job_dir)
        name, token = f"probe-{secrets.token_hex(4)}", secrets.token_hex(16)
        await asyncio.to_thread((folder / name).write_text, token, encoding="ascii")
        try:
            if await host.actor.sees.remote(str(folder), name, token):
                return True
        finally:
            await asyncio.to_thread((folder / name).unlink)
        for change in job_files.snapshot(folder):
            await host.actor.receive.remote(change)
        return False

    async def _follow(self, host: Host) -> AsyncIterator[WorkerReport]:
        from ray.exceptions import ActorUnavailableError, RayError

        loop = asyncio.get_running_loop()
        folder = Path(self.order.job_dir)
        reports_seen = files_seen = 0
        while True:
            asked = loop.time()
            try:
                news = await host.actor.news.remote(reports_seen, files_seen)
            except ActorUnavailableError:
                await asyncio.sleep(RETRY_PAUSE)
                continue
            except RayError as error:
                why = f"{self.order.node_name}, or the job's actor there, is gone: {_describe(error)}"
                yield await self._lost(why, asked)
                return
            # Files first: a reader that knows of an event finds what it tells of.
            for number, change in news.files:
                await self._apply(folder, change)
                files_seen = number
            for number, report in news.reports:
                reports_seen = number
                yield report
                if not isinstance(report, Progress | TaskResult):
                    return

    async def _apply(self, folder: Path, change: job_files.FileChange) -> None:
        while True:
            try:
                return await asyncio.to_thread(job_files.apply, folder, change)
            except OSError as error:
                if not is_shortage(error):
                    raise
                logger.warning("job %s: its files cannot be written: %s", self.order.job.job_id, error)
            await asyncio.sleep(DISK_PAUSE)

    async def _lost(self, why: str, last_asked: float) -> HostLost | Stopped:
        """The last word for a worker that cannot be reached any more since ``last_asked``."""
        self._reachable = False
        if self._stop.is_set():
            return Stopped()
        logger.warning("job %s: %s", self.order.job.job_id, why)
        # Cut off and dead look the same from here. The worker of a node that is cut off has ended when the lease is
        # over, and only then may another take up its files.
        over = last_asked + self._settings.lease + LEASE_MARGIN
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), max(0.0, over - asyncio.get_running_loop().time()))
        return HostLost(why)

    async def _unless_stopped(self, reference: Any) -> Any:
        """The answer; None when the job is to be stopped, or the answer takes longer than a placement may."""
        answer = asyncio.ensure_future(_future(reference))
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait(
            {answer, stopped}, timeout=self._settings.placement_timeout, return_when=asyncio.FIRST_COMPLETED
        )
        stopped.cancel()
        if answer.done():
            return answer.result()
        answer.cancel()
        return None

    def _ask_to_stop(self, how: str, reason: str | None, timeout: float) -> None:
        self._stop.set()
        if self._stopping is not None:
            self._stopping.cancel()
        if self._host is not None and self._started:
            self._stopping = asyncio.create_task(self._stop_worker(self._host, how, reason, timeout))

    async def _stop_worker(self, host: Host, how: str, reason: str | None, timeout: float) -> None:
        with contextlib.suppress(Exception):
            call = getattr(host.actor, how)
            await (call.remote() if reason is None else call.remote(reason))
        await asyncio.sleep(timeout)
        logger.warning("job %s: its actor does not stop it; ending the actor", self.order.job.job_id)
        await self._hosts.end(host)


def _note_actor(folder: Path, name: str) -> None:
    (folder / job_files.ACTOR_FILE).write_text(f"{name}\n", encoding="ascii")


async def _future(reference: Any) -> Any:
    return await reference


def _describe(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

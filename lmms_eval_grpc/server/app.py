"""The server as an object: builds the parts, starts them in order, and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from lmms_eval_grpc.executors.base import Executor
from lmms_eval_grpc.executors.devices import UnknownDevice
from lmms_eval_grpc.executors.ray.executor import ClusterUnavailable
from lmms_eval_grpc.jobs.errors import StoreUnavailable
from lmms_eval_grpc.scheduler import Journal, Scheduler, SchedulerSettings
from lmms_eval_grpc.server import health
from lmms_eval_grpc.server.admin import AdminServicer
from lmms_eval_grpc.server.auth.guards import make_guards
from lmms_eval_grpc.server.catalog import AvailableModel, TaskCatalog, available_models
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.convert_catalog import ServerFacts
from lmms_eval_grpc.server.draining import Draining
from lmms_eval_grpc.server.executor import make_executor
from lmms_eval_grpc.server.health import HealthServicer
from lmms_eval_grpc.server.info import gather_facts
from lmms_eval_grpc.server.interceptors import build_interceptors
from lmms_eval_grpc.server.observability import Observability
from lmms_eval_grpc.server.permissions import code_rules, path_rules
from lmms_eval_grpc.server.reflection import add_reflection
from lmms_eval_grpc.server.request_secrets import RequestDigests
from lmms_eval_grpc.server.servicer import EvaluationServicer, add_to_server
from lmms_eval_grpc.server.state_dir import (
    JOBS_NAME,
    STORE_NAME,
    ServerStartError,
    StateLock,
    is_temporary,
    make_state_dir,
    mark_temporary,
)
from lmms_eval_grpc.server.tracking import check_own_trackers
from lmms_eval_grpc.server.transport import Listener, channel_options
from lmms_eval_grpc.server.validate import Validator
from lmms_eval_grpc.store.base import JobStore
from lmms_eval_grpc.store.samples import FileSampleStore
from lmms_eval_grpc.store.sqlite import SqliteStore
from lmms_eval_grpc.v1 import admin_service_pb2_grpc

logger = logging.getLogger(__name__)

_LAST_CALLS = 1.0
"""Seconds that calls under way get at least, unless there is a hurry."""
_SERVICES = (health.READY, health.ADMIN, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")


class EvaluationServer:
    """One server. Lives on the event loop that starts it; may be used as an async context manager.

    Args:
        args: its settings.
        executor: runs the jobs in place of the one that the settings name.
    """

    def __init__(self, args: ServerArgs | None = None, *, executor: Executor | None = None) -> None:
        self.args = args or ServerArgs()
        self._executor = executor or make_executor(self.args)
        self._health = HealthServicer()
        self._stack = AsyncExitStack()
        self._hurry = asyncio.Event()
        self._closed = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._running_out: asyncio.Task[None] | None = None
        self._address: str | None = None
        self._metrics_address: str | None = None
        self._state_dir: Path | None = None
        self._journal: Journal
        self._scheduler: Scheduler
        self._draining: Draining
        self._listener: Listener
        self._grpc: grpc.aio.Server

    @property
    def address(self) -> str:
        """Where to reach the server: ``host:port``, with TLS ``grpcs://host:port``, or ``unix:`` and a path.

        Raises RuntimeError before the start.
        """
        if self._address is None:
            raise RuntimeError("the server has no address before it is started")
        return self._address

    @property
    def metrics_address(self) -> str | None:
        """Where the metrics are served: ``host:port``. None: nowhere."""
        return self._metrics_address

    @property
    def state_dir(self) -> Path:
        """The folder of the store and the jobs. Raises RuntimeError before the start."""
        if self._state_dir is None:
            raise RuntimeError("the server has no state folder before it is started")
        return self._state_dir

    async def start(self) -> None:
        """Returns when the server takes calls: the store is open, what an earlier server left is recovered.

        Raises:
            ConfigError: the address can be reached from other machines, and nobody said that it may; TLS is set by
                halves; or a setting of one executor was given to the other.
            ServerStartError: the state folder, the store, a device, the cluster, a certificate or the port cannot be
                had.
        """
        self.args.check_exposure()
        self.args.check_executor()
        try:
            await self._start()
        except BaseException as error:
            await self._stack.aclose()
            self._closed.set()
            if isinstance(error, UnknownDevice):
                raise ServerStartError(f"devices: {error}") from error
            if isinstance(error, ClusterUnavailable):
                raise ServerStartError(f"executor ray: {error}") from error
            if isinstance(error, StoreUnavailable):
                raise ServerStartError(f"{self._state_dir}: {error}") from error
            raise

    async def _start(self) -> None:
        began = time.monotonic()
        for name in ("include_path", "checkpoint_root", "output_root"):
            _check_folders(name, getattr(self.args, name))
        check_own_trackers(self.args.track)
        self._listener = Listener(self.args)
        self._state_dir = make_state_dir(self.args)
        lock = StateLock(self._state_dir)
        lock.acquire()
        self._stack.callback(lock.release)
        if is_temporary(self.args):
            mark_temporary(self._state_dir)
            self._stack.push_async_callback(asyncio.to_thread, shutil.rmtree, self._state_dir, ignore_errors=True)
        observability = Observability(self.args, self._stack)
        store = SqliteStore(self._state_dir / STORE_NAME, committed=observability.committed)
        await store.open()
        self._stack.push_async_callback(store.close)
        self._journal = Journal(store)
        settings = SchedulerSettings(
            jobs_dir=self._state_dir / JOBS_NAME,
            max_queued_jobs=self.args.max_queued_jobs,
            max_jobs_per_owner=self.args.max_jobs_per_principal,
            max_submissions_per_minute=self.args.max_submissions_per_minute,
            max_finished_jobs=self.args.max_completed_jobs,
            finished_job_ttl=self.args.finished_job_ttl,
            max_attempts=self.args.max_attempts,
        )
        self._scheduler = Scheduler(store, self._executor, self._journal, settings)
        self._draining = Draining(self._scheduler)
        digests = await asyncio.to_thread(RequestDigests.of_state_dir, self._state_dir)
        tasks = TaskCatalog(self.args.include_path)
        facts, models, _ = await asyncio.gather(
            asyncio.to_thread(gather_facts, self.args),
            asyncio.to_thread(available_models),
            asyncio.to_thread(tasks.index),
        )
        guards = make_guards(self.args, self._stack)
        self._grpc = grpc.aio.server(
            interceptors=build_interceptors(self.args, observability.calls, guards, self._journal.turns.give_way),
            options=channel_options(self.args),
        )
        self._add_services(store, tasks, models, facts, digests)
        # A port that is taken is found before jobs are started; calls are answered only after the recovery.
        self._stack.push_async_callback(self._grpc.stop, 0)
        self._address = self._listener.open(self._grpc, self._stack)
        self._metrics_address = observability.serve(self._scheduler, self._executor, self._state_dir)
        await observability.follow(self._journal, store)
        self._stack.push_async_callback(self._scheduler.stop)
        await self._scheduler.start()
        await self._grpc.start()
        store.when_trouble_changes(self._tell_health)
        self._tell_health()
        self._write_address()
        devices = ", ".join(device.name for device in self._executor.devices)
        logger.info(
            "serving on %s; devices: %s; state in %s; ready after %.2f s",
            self._address,
            devices,
            self._state_dir,
            time.monotonic() - began,
        )

    def _tell_health(self) -> None:
        self._health.set_ready(self._scheduler.accepting)

    def _add_services(
        self,
        store: JobStore,
        tasks: TaskCatalog,
        models: Sequence[AvailableModel],
        facts: ServerFacts,
        digests: RequestDigests,
    ) -> None:
        servicer = EvaluationServicer(
            store=store,
            samples=FileSampleStore(),
            journal=self._journal,
            scheduler=self._scheduler,
            executor=self._executor,
            validator=Validator(
                tasks,
                self._executor,
                include_paths=self.args.include_path,
                path_rules=path_rules(self.args).guarding(self.state_dir, self.state_dir / JOBS_NAME),
                code_rules=code_rules(self.args),
                digests=digests,
                track=self.args.track,
            ),
            catalog=tasks,
            models=models,
            facts=facts,
            max_submit_priority=self.args.max_submit_priority,
            stream_rate=self.args.max_stream_bytes_per_second,
        )
        add_to_server(servicer, self._grpc)
        admin = AdminServicer(self._scheduler, self.drain)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        add_reflection(self._grpc, _SERVICES)

    async def stop(self, grace: float | None = None) -> None:
        """Stops the server and returns when nothing of it is left. Idempotent; a later call may be in more of a hurry.

        Nothing new is started or taken in; running jobs and open calls get ``grace`` seconds (None: as configured; 0:
        none at all). Jobs that still run then are put back into the queue, where the next server finds them. A drain
        that is under way gets no more time than that.
        """
        seconds = self.args.shutdown_grace if grace is None else grace
        if seconds <= 0:
            self._hurry.set()
        if self._state_dir is None:
            self._closed.set()  # It was never started.
        if self._closed.is_set():
            return
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(seconds))
        else:
            await self._draining.order(finish_queued=False, timeout=seconds)
        await asyncio.shield(self._stopping)

    async def drain(self, *, finish_queued: bool = False, timeout: float | None = None) -> None:
        """Refuses new jobs from now on, and stops the server once what it has to do is done. Returns at once: await
        :meth:`wait_closed`. Idempotent; a later call may be stricter.

        Args:
            finish_queued: whether the queued jobs are run too. Otherwise they stay for the next server.
            timeout: seconds that running jobs get; those that still run then are put back into the queue. None: no
                bound.

        Raises:
            QueuePaused: the queued jobs that are to be finished cannot start.
        """
        await self._draining.order(finish_queued=finish_queued, timeout=timeout)
        self._health.set_ready(False)
        if self._running_out is None:
            logger.info("draining: no new jobs; the server stops once its work is done")
            self._running_out = asyncio.create_task(self._run_out())

    async def _run_out(self) -> None:
        await self._draining.wait()
        await self.stop(_LAST_CALLS)

    async def wait_closed(self) -> None:
        """Returns once the server has stopped."""
        await self._closed.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _stop(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        logger.info("stopping: no new jobs; running jobs and open calls have %.1f s", grace)
        try:
            self._health.set_ready(False)
            await self._draining.order(finish_queued=False, timeout=grace)
            await self._draining.wait()
            # Followers first: a stream that waits would hold up the calls' end for the whole grace.
            self._journal.close()
            self._scheduler.queue_changes.close()
            self._health.close()
            await self._calls_end(deadline)
        finally:
            await self._stack.aclose()
            self._closed.set()
            logger.info("stopped")

    async def _calls_end(self, deadline: float) -> None:
        grace = max(_LAST_CALLS, deadline - time.monotonic())
        ending = asyncio.create_task(self._grpc.stop(grace))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({ending, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not ending.done():
            await self._grpc.stop(0)
        await ending

    def _write_address(self) -> None:
        path = self.args.address_file
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_text(f"{self.address}\n", encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            raise ServerStartError(f"address_file: {path} cannot be written: {error.strerror}") from error
        self._stack.callback(path.unlink, missing_ok=True)


def _check_folders(setting: str, folders: Sequence[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise ServerStartError(f"{setting}: {folder} is not a folder; mend the path, or leave it out")

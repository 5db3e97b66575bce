"""Everything that follows a server and changes nothing: the log of its calls, metrics, traces."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_eval_grpc.executors.base import Executor
from lmms_eval_grpc.scheduler import Journal, Scheduler
from lmms_eval_grpc.server.call_log import LogCalls
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.observe import CallObserver, ObserveCalls
from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.server.tracing.setup import open_tracing
from lmms_eval_grpc.store.base import JobStore

if TYPE_CHECKING:
    from lmms_eval_grpc.store.writer import CommitObserver

logger = logging.getLogger(__name__)


class Observability:
    """What the settings ask for. What is off is not imported."""

    def __init__(self, args: ServerArgs, stack: AsyncExitStack) -> None:
        """What it opens is closed with ``stack``. Raises ServerStartError."""
        self._args = args
        self._stack = stack
        self._metrics = None
        if args.metrics_port is not None:
            try:
                from lmms_eval_grpc.server.metrics.service import Metrics
            except ModuleNotFoundError as error:
                raise ServerStartError(
                    f"metrics_port: metrics need the package {error.name}: pip install 'lmms-eval-grpc[server]',"
                    " or leave the setting out"
                ) from error

            self._metrics = Metrics()
        self._tracing = open_tracing(args.otlp_endpoint)
        observers: list[CallObserver] = [LogCalls()]
        if self._metrics is not None:
            observers.append(self._metrics.calls)
        if self._tracing is not None:
            stack.push_async_callback(self._tracing.close)
            # First, so that the lines of the log know the trace.
            observers.insert(0, self._tracing.calls)
        self.calls = ObserveCalls(observers)

    @property
    def committed(self) -> CommitObserver | None:
        """Whom the store tells of its commits."""
        return None if self._metrics is None else self._metrics.committed

    async def follow(self, journal: Journal, store: JobStore) -> None:
        """Follows the jobs; to be called before the scheduler starts, which writes to their logs."""
        if self._metrics is not None:
            journal.listen(self._metrics.jobs.follow)
        if self._tracing is not None:
            await self._tracing.jobs.resume(store)
            journal.listen(self._tracing.jobs.follow)

    def serve(self, scheduler: Scheduler, executor: Executor, state_dir: Path) -> str | None:
        """Serves the metrics, and returns at which ``host:port``; None when there are none. Raises ServerStartError."""
        if self._metrics is None or self._args.metrics_port is None:
            return None
        address = self._metrics.serve(
            *(self._args.metrics_host, self._args.metrics_port),
            scheduler=scheduler,
            executor=executor,
            state_dir=state_dir,
            observed=self.calls,
            stack=self._stack,
        )
        logger.info("metrics on http://%s/metrics", address)
        return address

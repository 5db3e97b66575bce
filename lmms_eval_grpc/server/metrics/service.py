"""One server's metrics as a whole: everything that measures, over one registry."""

from __future__ import annotations

import platform
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry, ProcessCollector

from lmms_eval_grpc import __version__
from lmms_eval_grpc.executors.base import Executor
from lmms_eval_grpc.scheduler import Scheduler
from lmms_eval_grpc.server.metrics.calls import MeasureCalls
from lmms_eval_grpc.server.metrics.endpoint import open_endpoint
from lmms_eval_grpc.server.metrics.instruments import Instruments
from lmms_eval_grpc.server.metrics.jobs import MeasureJobs
from lmms_eval_grpc.server.metrics.lag import LoopLag
from lmms_eval_grpc.server.metrics.state import StateCollector
from lmms_eval_grpc.server.observe import ObserveCalls


class Metrics:
    """Measures from the beginning, and tells once it is served."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._instruments = Instruments(self.registry)
        self._instruments.build.info(
            {"version": __version__, "python": platform.python_version(), "grpc": grpc.__version__}
        )
        ProcessCollector(registry=self.registry)
        self.calls = MeasureCalls(self._instruments)
        self.jobs = MeasureJobs(self._instruments)

    def committed(self, seconds: float, writes: int) -> None:
        """Counts a commit of the store. Threads may call it."""
        self._instruments.commits.observe(seconds)
        self._instruments.writes.inc(writes)

    def serve(
        self,
        host: str,
        port: int,
        *,
        scheduler: Scheduler,
        executor: Executor,
        state_dir: Path,
        observed: ObserveCalls,
        stack: AsyncExitStack,
    ) -> str:
        """Serves the metrics until ``stack`` is closed, and returns where. Raises ServerStartError."""
        state = StateCollector(scheduler, executor, state_dir, calls=self.calls, jobs=self.jobs, observed=observed)
        self.registry.register(state)
        lag = LoopLag(self._instruments.loop_lag.observe)
        lag.start()
        stack.callback(lag.stop)
        endpoint = open_endpoint(self.registry, host, port)
        stack.push_async_callback(endpoint.close)
        return endpoint.address

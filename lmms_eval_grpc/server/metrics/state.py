"""The metrics that are looked up when somebody asks for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lmms_eval_grpc.executors.base import Executor
from lmms_eval_grpc.jobs.errors import StoreUnavailable
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler import Scheduler
from lmms_eval_grpc.scheduler.leftovers import size_of
from lmms_eval_grpc.scheduler.queue import QueueView
from lmms_eval_grpc.server.metrics.calls import MeasureCalls
from lmms_eval_grpc.server.metrics.instruments import PREFIX
from lmms_eval_grpc.server.metrics.jobs import MeasureJobs
from lmms_eval_grpc.server.observe import ObserveCalls

logger = logging.getLogger(__name__)

LOOP_TIMEOUT = 5.0
"""Seconds that the event loop has to answer; without an answer what it knows is left out."""
SIZE_AGE = 300.0
"""Seconds for which the size of the state folder is good: looking through it takes time."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """What only the event loop may look at."""

    queue: QueueView
    counts: Mapping[JobState, int]
    warm: bool
    busy_seconds: Mapping[str, float]
    open_streams: Mapping[str, int]
    sent: Mapping[str, int]


class StateCollector(Collector):
    """Asks the server's parts. Is itself asked in threads of the endpoint."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        state_dir: Path,
        *,
        calls: MeasureCalls,
        jobs: MeasureJobs,
        observed: ObserveCalls,
    ) -> None:
        """To be made on the server's event loop."""
        self._loop = asyncio.get_running_loop()
        self._scheduler = scheduler
        self._executor = executor
        self._state_dir = state_dir
        self._calls = calls
        self._jobs = jobs
        self._observed = observed
        self._size = (float("-inf"), 0)

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        moment = self._ask_the_loop()
        if moment is not None:
            yield from _tell(moment)
        yield from self._disk()

    def _ask_the_loop(self) -> _Moment | None:
        look = self._look()
        try:
            asked = asyncio.run_coroutine_threadsafe(look, self._loop)
        except RuntimeError:
            look.close()
            return None  # The loop is closed: the server has stopped.
        try:
            return asked.result(LOOP_TIMEOUT)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError, StoreUnavailable) as error:
            asked.cancel()
            logger.warning("some metrics are left out: %s", error or type(error).__name__)
            return None

    async def _look(self) -> _Moment:
        counts = await self._scheduler.counts()
        return _Moment(
            queue=self._scheduler.queue(),
            counts=counts,
            warm=self._executor.warm,
            busy_seconds=self._jobs.busy_seconds(),
            open_streams=dict(self._calls.open_streams),
            sent=dict(self._observed.sent),
        )

    def _disk(self) -> Iterator[Metric]:
        looked, size = self._size
        if time.monotonic() - looked > SIZE_AGE:
            size = size_of(self._state_dir)
            self._size = (time.monotonic(), size)
        yield _gauge("state_dir_bytes", "Size of the state folder; up to five minutes old.", size)
        try:
            free = shutil.disk_usage(self._state_dir).free
        except OSError:
            return
        yield _gauge("state_dir_free_bytes", "Free space on the disk of the state folder.", free)


def _tell(moment: _Moment) -> Iterator[Metric]:
    queue = moment.queue
    yield _gauge("queue_depth", "Jobs that wait.", len(queue.queued))
    yield _gauge("queue_capacity", "Jobs that may wait at once.", queue.capacity)
    yield _gauge("queue_paused", "1 while no further jobs are started.", queue.pause_reason is not None)
    yield _gauge("accepting", "1 while new jobs are taken in.", queue.accepting)
    jobs = GaugeMetricFamily(f"{PREFIX}_jobs", "Jobs that are kept, by state.", labels=["state"])
    for state in JobState:
        jobs.add_metric([state.value], moment.counts.get(state, 0))
    yield jobs
    slots = GaugeMetricFamily(f"{PREFIX}_slot_busy", "1 while a job holds the device.", labels=["device"])
    busy = CounterMetricFamily(
        f"{PREFIX}_slot_busy_seconds", "Seconds for which jobs have held the device.", labels=["device"]
    )
    for slot in queue.slots:
        slots.add_metric([slot.device.name], slot.job_id is not None)
    # A device that has gone from a cluster keeps its count: counters do not vanish and come back smaller.
    for device in sorted({slot.device.name for slot in queue.slots} | moment.busy_seconds.keys()):
        busy.add_metric([device], moment.busy_seconds.get(device, 0.0))
    yield from (slots, busy)
    yield _gauge("template_warm", "1 while the next worker starts from the warm template.", moment.warm)
    streams = GaugeMetricFamily(f"{PREFIX}_open_streams", "Streams that are open, by method.", labels=["method"])
    for method, number in moment.open_streams.items():
        streams.add_metric([method], number)
    sent = CounterMetricFamily(
        f"{PREFIX}_stream_messages_sent", "Messages written to streams, by method.", labels=["method"]
    )
    for method, number in moment.sent.items():
        sent.add_metric([method], number)
    yield from (streams, sent)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=float(value))

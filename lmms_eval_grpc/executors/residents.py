"""Workers that stay, with their model loaded, after their job: for the next one, for a while, until room is needed."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lmms_eval_grpc.executors.worker_process import WorkerProcess
from lmms_eval_grpc.jobs.secrets import has_placeholder
from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobSpec, MergeMode

logger = logging.getLogger(__name__)

_ANOTHER_CHECKPOINT = ("pretrained", "revision")
"""The keys of ``model_args`` in which two jobs may differ and share a loaded model."""


def model_key(spec: JobSpec) -> str | None:
    """Equal for jobs that may share a loaded model, as far as their specifications tell; None: with no other job."""
    if not isinstance(spec, EvaluationSpec) or spec.num_gpus != 1 or spec.trust_remote_code:
        return None
    if "://" in str(spec.model_args.get("pretrained", "")) or spec.merge is MergeMode.AUTO:
        return None  # What it is loaded from may go when its job has ended.
    if has_placeholder(spec):
        return None  # Whose secrets they are cannot be told.
    arguments = {key: value for key, value in spec.model_args.items() if key not in _ANOTHER_CHECKPOINT}
    key = [spec.model, arguments, spec.batch_size, spec.max_batch_size, spec.force_simple]
    return json.dumps(key, sort_keys=True, default=str)


class Residents:
    """Every one of them holds its devices' memory; nobody's devices are taken away for it."""

    def __init__(self, idle_timeout: float) -> None:
        self._idle_timeout = idle_timeout
        self._present: list[_Resident] = []
        self._hurry = asyncio.Event()

    def keep(self, worker: WorkerProcess, devices: Sequence[str], key: str) -> None:
        """Takes a worker over whose job is done."""
        self._present.append(_Resident(worker, devices, key, self._idle_timeout, self._hurry, self._present.remove))

    def has(self, devices: Sequence[str], key: str) -> bool:
        """Whether one waits for a job with this key on these devices."""
        return self._find(devices, key) is not None

    def take(self, devices: Sequence[str], key: str) -> WorkerProcess | None:
        """The worker that waits for a job with this key on these devices."""
        found = self._find(devices, key)
        return None if found is None else found.take()

    async def make_room(self, devices: Sequence[str], unheld: Counter[str]) -> None:
        """Returns when no job on ``devices`` shares them with a resident.

        Args:
            devices: names of devices that a job gets.
            unheld: how many devices of each name no job holds; a machine may have several of the name ``cpu``.
        """
        for name in set(devices):
            inside = [one for one in self._present if name in one.devices]
            for one in inside[: max(0, len(inside) - unheld[name])]:
                await one.end("its devices are needed")

    async def stop(self) -> None:
        """Returns when nothing is left of any of them."""
        self._hurry.set()
        await asyncio.gather(*(one.end("the server stops") for one in list(self._present)))

    def _find(self, devices: Sequence[str], key: str) -> _Resident | None:
        return next((one for one in self._present if one.serves(devices, key)), None)


class _Resident:
    def __init__(
        self,
        worker: WorkerProcess,
        devices: Sequence[str],
        key: str,
        idle_timeout: float,
        hurry: asyncio.Event,
        forget: Any,
    ) -> None:
        self.devices = tuple(devices)
        self._worker = worker
        self._key = key
        self._idle_timeout = idle_timeout
        self._hurry = hurry
        self._forget = forget
        self._why = "nobody has needed it"
        self._decided = asyncio.Event()
        self._taken = self._leaving = False
        self._task = asyncio.create_task(self._wait(), name=f"resident-{worker.pid}")

    def serves(self, devices: Sequence[str], key: str) -> bool:
        lives = not (self._decided.is_set() or self._leaving or self._worker.exited.done())
        return lives and self.devices == tuple(devices) and self._key == key

    def take(self) -> WorkerProcess:
        self._taken = True
        self._decided.set()
        self._forget(self)
        return self._worker

    async def end(self, why: str) -> None:
        if not self._decided.is_set():
            self._why = why
            self._decided.set()
        await asyncio.wait({self._task})

    async def _wait(self) -> None:
        decided = asyncio.ensure_future(self._decided.wait())
        ends: set[asyncio.Future[Any]] = {decided, self._worker.exited}
        await asyncio.wait(ends, timeout=self._idle_timeout, return_when=asyncio.FIRST_COMPLETED)
        decided.cancel()
        if self._taken:
            return
        self._leaving = True
        logger.info("worker %d, which kept its model, ends: %s", self._worker.pid, self._why)
        try:
            await self._worker.end(self._hurry)
        finally:
            self._worker.close()
            self._forget(self)

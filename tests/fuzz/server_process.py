"""A server as a process of its own, real but for what runs the jobs: answers come at once, from no model.

    python -m tests.fuzz.server_process STATE_DIR ADDRESS_FILE FIGURES_FILE INCLUDE_PATH [ACCESS_FILE CALLER]

All that settings can open is open, so that requests reach far; with an ACCESS_FILE it asks who calls, bounds what
requests may touch to the folder CALLER, and what one caller may take.

Stops on SIGTERM. Writes to the figures file, every second, for how long its event loop stood still at most, and where.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.allocator import share_heaps
from lmms_eval_grpc.executors.base import Device, Execution
from lmms_eval_grpc.jobs.events import Completed, Failed, Stopped, WorkerReport
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import (
    EvaluationResult,
    JobError,
    JobErrorCode,
    JobStage,
    MergeResult,
    Metric,
    Progress,
    TaskResult,
)
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.server import ServerArgs
from lmms_eval_grpc.server.app import EvaluationServer

SLOTS = 4
MAX_REQUEST_BYTES = 8 * 1024 * 1024
_LOOK_EVERY = 0.02
_STALL = 0.25
"""Seconds from which on it is noted where the loop stands."""


class FastExecution:
    """Writes a log and a few samples, and ends within a moment, by and large well."""

    def __init__(self, job: Job, job_dir: Path) -> None:
        self._job = job
        self._job_dir = job_dir
        self._cancelled = asyncio.Event()

    async def reports(self) -> AsyncIterator[WorkerReport]:
        kind = int.from_bytes(self._job.job_id.encode()[-2:]) % 10
        self._job_dir.mkdir(parents=True, exist_ok=True)
        with (self._job_dir / "worker.log").open("a") as log:
            log.write(f"attempt {self._job.attempt}\nsüß\n" + "x" * 3_000 * kind + "\n")
        tasks = self._job.spec.tasks[:3] if isinstance(self._job.spec, EvaluationSpec) else ("merge",)
        yield Progress(JobStage.GENERATING, task=tasks[0], samples_total=3)
        with (self._job_dir / "samples.jsonl").open("a") as samples:
            for number in range(kind):
                record = {"task": tasks[0], "doc_id": number, "outcome": "ok", "prompt": "p" * 50, "scores": {"m": 1.0}}
                samples.write(json.dumps(record) + "\n")
            samples.write("torn" if kind == 3 else "")
        results = tuple(
            TaskResult(task, "1", (Metric("m", "none", 0.5, sample_count=3),), 3, 3, 0, 0.1) for task in tasks
        )
        for result in results:
            yield result
        if kind > 5:
            try:
                async with asyncio.timeout(0.05 * (kind - 5)):
                    await self._cancelled.wait()
            except TimeoutError:
                pass
        if self._cancelled.is_set():
            yield Stopped()
        elif kind == 0:
            yield Failed(JobError(JobErrorCode.WORKER_DIED, "WORKER_KILLED", "killed", {"signal": "SIGKILL"}))
        elif isinstance(self._job.spec, EvaluationSpec):
            yield Completed(EvaluationResult(task_results=results, results_json="{}"))
        else:
            yield Completed(MergeResult(self._job.spec.output_path, 1, 1, 1))

    async def cancel(self, reason: str) -> None:
        self._cancelled.set()


class FastExecutor:
    """Has a few CPUs and no processes."""

    elastic = False
    warm = True
    devices: tuple[Device, ...] = tuple(Device("cpu") for _ in range(SLOTS))

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def clear_leftovers(self, job_dirs: Sequence[Path]) -> None: ...

    def when_devices_change(self, callback: Callable[[], None]) -> None: ...

    async def execute(self, job: Job, devices: Sequence[Device], job_dir: Path) -> Execution:
        return FastExecution(job, job_dir)


class LastingServer(EvaluationServer):
    """Takes an order to drain, and goes on: a run is about more requests than one. What a drain does is for
    ``test_drain``."""

    async def drain(self, *, finish_queued: bool = False, timeout: float | None = None) -> None: ...


class Watchman:
    """Looks at how late the event loop is, and where it stands meanwhile."""

    def __init__(self, figures: Path) -> None:
        self._figures = figures
        self._seen = time.monotonic()
        self._loop_thread = threading.get_ident()
        self.worst = 0.0
        self.where: dict[str, float] = {}

    async def run(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()
        written = 0.0
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = time.monotonic()
            self.worst = max(self.worst, now - self._seen - _LOOK_EVERY)
            self._seen = now
            if now - written > 1:
                written = now
                self.write()

    def write(self) -> None:
        worst_first = sorted(self.where.items(), key=lambda item: -item[1])[:20]
        draft = self._figures.with_suffix(".draft")
        draft.write_text(json.dumps({"worst_stall_s": round(self.worst, 3), "where": dict(worst_first)}))
        draft.replace(self._figures)

    def _watch(self) -> None:
        while True:
            time.sleep(_STALL / 2)
            late = time.monotonic() - self._seen - _LOOK_EVERY
            frame = sys._current_frames().get(self._loop_thread)
            if late < _STALL or frame is None:
                continue
            stack = traceback.extract_stack(frame)[-4:]
            place = " < ".join(f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in reversed(stack))
            self.where[place] = max(late, self.where.get(place, 0.0))


_SWITCHES = ("trust_remote_code", "allow_task_files", "allow_server_args", "allow_lmms_eval_models")
OPEN: dict[str, Any] = dict.fromkeys(_SWITCHES, True)


def guarded(access: Path, caller: Path) -> dict[str, Any]:
    """Settings of a server that many share, with limits that a run comes up against."""
    return {
        "access_file": access,
        "audit_log": access.with_name("audit.jsonl"),
        "checkpoint_root": (caller,),
        "output_root": (caller / "out",),
        "allowed_api_hosts": ("models.example",),
        "max_jobs_per_principal": 40,
        "max_submissions_per_minute": 600,
        "max_watches_per_principal": 6,
        "max_stream_bytes_per_second": 256 * 1024,
    }


async def serve(
    state: Path, address: Path, figures: Path, include: Path, access: Path | None = None, caller: Path | None = None
) -> None:
    args: dict[str, Any] = {"max_queued_jobs": 60, "max_completed_jobs": 100, "shutdown_grace": 0.0}
    args |= OPEN if access is None or caller is None else guarded(access, caller)
    server = LastingServer(
        ServerArgs(
            port=0,
            state_dir=state,
            address_file=address,
            include_path=(include,),
            max_request_bytes=MAX_REQUEST_BYTES,
            **args,
        ),
        executor=FastExecutor(),
    )
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    watchman = Watchman(figures)
    watching = asyncio.create_task(watchman.run())
    async with server:
        await over.wait()
    watching.cancel()
    watchman.write()


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(level=logging.WARNING)
    share_heaps()
    asyncio.run(serve(*map(Path, sys.argv[1:])))

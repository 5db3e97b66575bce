"""Jobs on this machine: one worker process each, forked from a template process that has paid for the imports."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lmms_eval_grpc.executors import scratch
from lmms_eval_grpc.executors.base import Device, ExpectedJob, is_shortage
from lmms_eval_grpc.executors.devices import AUTO, LocalDevice, confine, find_devices, torch_device
from lmms_eval_grpc.executors.local_worker import LocalExecution, NoWorker
from lmms_eval_grpc.executors.prepared import PreparedWorkers
from lmms_eval_grpc.executors.residents import Residents, model_key
from lmms_eval_grpc.executors.template_child import ForkedWorker, TemplateUnavailable
from lmms_eval_grpc.executors.template_process import TemplateProcess
from lmms_eval_grpc.executors.watchdog import Patience
from lmms_eval_grpc.executors.worker_process import WorkerProcess
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.secrets import complete
from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobSpec
from lmms_eval_grpc.worker import processes
from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob

logger = logging.getLogger(__name__)

LOG_FILE = "worker.log"
"""The worker's log, in the job's folder; later attempts append to it."""
START_PATIENCE = 60.0
"""Seconds for which a job waits between attempts to get a worker from templates that are down, or from a machine that
has run out of something, before it gives its devices back and waits in the queue. Imports are not counted."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two such attempts: doubled from the one to the other."""
LEFTOVERS_TIMEOUT = 30.0
"""Seconds that a start of the server waits for the end of what an earlier one left running."""
ORPHANS_TIMEOUT = 5.0
"""The same, for what belongs to no job, such as a template."""


@dataclass(frozen=True, slots=True)
class LocalExecutorSettings:
    """How jobs run on this machine."""

    devices: tuple[str, ...] = (AUTO,)
    """See :func:`~lmms_eval_grpc.executors.devices.find_devices`."""
    include_paths: tuple[Path, ...] = ()
    """Folders with task YAML files, for every job."""
    cancel_grace: float = 1.0
    """Seconds between asking a worker to stop and killing it."""
    torch_threads: int | None = None
    """Threads that torch may use in a worker. None: the cores, shared out among the slots; one where there are at most
    two cores, because there a second thread mostly waits for the first."""
    heartbeat_timeout: float | None = 120.0
    """Seconds without a sign of life after which a worker counts as hung and is killed. None: none."""
    stall_timeout: float | None = None
    """Seconds without progress after which it does, where the job names no bound of its own. None: none."""
    use_template: bool = True
    """False: every worker imports for itself, seconds slower; for plug-ins that do not bear a fork."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of every worker."""
    prepare_next: bool = True
    """Whether jobs that wait are prepared, as far as that needs no device, while those before them run."""
    keep_model_warm: float | None = None
    """Seconds for which a completed job's worker stays, with its model loaded, for another job with this model or
    another checkpoint of it. None: not at all."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a running job holds."""

    devices: tuple[str, ...]
    model_key: str | None
    """Of the model that its worker will keep; None: it keeps none."""


class LocalExecutor:
    """An :class:`~lmms_eval_grpc.executors.base.Executor`. Imports neither torch nor transformers into this process."""

    def __init__(self, settings: LocalExecutorSettings | None = None) -> None:
        self._settings = settings or LocalExecutorSettings()
        if self._settings.torch_threads is not None and self._settings.torch_threads < 1:
            raise ValueError(f"torch_threads must be at least 1, or None; not {self._settings.torch_threads}")
        self._devices: tuple[LocalDevice, ...] = ()
        self._warm = TemplateProcess(preload=True)
        # For workers that import for themselves: forked too, but from a process that has imported nothing.
        self._cold = TemplateProcess(preload=False)
        self._executions: dict[LocalExecution, _Claim] = {}
        self._prepared = PreparedWorkers(self._fork_ahead)
        self._residents = Residents(self._settings.keep_model_warm or 0.0)
        self._stopped = False

    @property
    def devices(self) -> tuple[Device, ...]:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`. Empty before :meth:`start`."""
        return tuple(local.device for local in self._devices)

    @property
    def elastic(self) -> bool:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`."""
        return False

    def when_devices_change(self, callback: Callable[[], None]) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`. They do not."""

    @property
    def warm(self) -> bool:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`."""
        return self._warm.ready

    async def start(self) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`.

        Raises:
            UnknownDevice: the settings name a device that this machine does not have.
        """
        self._devices = await asyncio.to_thread(find_devices, self._settings.devices)
        if left := await asyncio.to_thread(processes.end_orphans, ORPHANS_TIMEOUT):
            logger.warning("processes %s of servers that are gone cannot be killed", ", ".join(map(str, left)))
        (self._warm if self._settings.use_template else self._cold).start()

    async def stop(self) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`. Jobs that still run are reported as Stopped."""
        self._stopped = True
        await asyncio.gather(self._prepared.stop(), *(execution.end() for execution in self._executions))
        await self._residents.stop()
        await asyncio.gather(self._warm.stop(), self._cold.stop())

    async def clear_leftovers(self, job_dirs: Sequence[Path]) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`. A later process that merely has the number of a former
        worker is left alone."""
        await asyncio.to_thread(_clear_leftovers, job_dirs)

    def expect(self, upcoming: Sequence[ExpectedJob], begun: Collection[str]) -> None:
        """See :class:`~lmms_eval_grpc.executors.base.LooksAhead`. Starts a worker for each that has none."""
        wanted = upcoming if self._settings.prepare_next and not self._stopped else ()
        self._prepared.expect(
            {
                one.job.job_id: partial(self._order, one.job, self._find(one.devices), one.job_dir, one.job.attempt + 1)
                for one in wanted
                if isinstance(one.job.spec, EvaluationSpec) and not self._model_stays(one)
            },
            begun,
        )

    async def execute(self, job: Job, devices: Sequence[Device], job_dir: Path) -> LocalExecution:
        """See :class:`~lmms_eval_grpc.executors.base.Executor`."""
        run = self._order(job, self._find(devices), job_dir, job.attempt)
        claim = _Claim(tuple(device.name for device in devices), self._model_key(job))

        async def launch(stop: asyncio.Event) -> WorkerProcess | None:
            return await self._launch(run, claim, stop)

        def keep(worker: WorkerProcess) -> bool:
            if claim.model_key is None or self._stopped:
                return False
            self._residents.keep(worker, claim.devices, claim.model_key)
            return True

        execution = LocalExecution(
            run, launch, keep, cancel_grace=self._settings.cancel_grace, patience=self._patience(job.spec)
        )
        self._executions[execution] = claim
        execution.when_ended(self._executions.pop)
        return execution

    async def _launch(self, run: RunJob, claim: _Claim, stop: asyncio.Event) -> WorkerProcess | None:
        """The worker that waits for this job, or a new one; None if ``stop`` was set before there was one.

        Raises NoWorker, ForkRefused.
        """
        if claim.model_key is not None and self._residents.has(claim.devices, claim.model_key):
            # First: the end of one that prepared this job takes the job's temporary folder with it.
            await self._prepared.drop(run.job_id)
            if await _made_scratch(Path(run.job_dir)) and (
                worker := self._residents.take(claim.devices, claim.model_key)
            ):
                worker.pass_on(run.job_id, run.environment[processes.MARKER])
                return worker
        if not await _finishes(self._residents.make_room(claim.devices, self._unheld()), stop):
            return None
        if (worker := await self._prepared.take(run.job_id, run.attempt)) is not None:
            return worker
        forked = await self._start_worker(stop, Path(run.log_path), run.environment)
        return None if forked is None else await self._connect(forked, run)

    async def _start_worker(
        self, stop: asyncio.Event, log_path: Path, environment: Mapping[str, str]
    ) -> ForkedWorker | None:
        """A worker, however often it has to be tried; None if ``stop`` was set before. Raises NoWorker, ForkRefused."""
        waited, pause = 0.0, FIRST_PAUSE
        while not (stop.is_set() or self._stopped):
            try:
                return await self._fork(stop, log_path, environment)
            except TemplateUnavailable as error:
                why = str(error)
            except Exception as error:
                if not is_shortage(error):
                    raise
                why = str(error)
            if stop.is_set():
                break
            if waited >= START_PATIENCE:
                raise NoWorker(why)
            logger.warning("no worker for %s: %s; next try in %.1f s", log_path.parent.name, why, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
            waited, pause = waited + pause, min(2 * pause, LONGEST_PAUSE)
        return None

    async def _fork_ahead(self, run: RunJob, decided: asyncio.Event) -> WorkerProcess | None:
        """A worker to prepare a job in, if that is easily had, once those that run do not mind."""
        try:
            for execution in list(self._executions):
                await _finishes(execution.under_way(), decided)
            forked = await self._fork(decided, Path(run.log_path), run.environment)
            return None if forked is None else await self._connect(forked, run)
        except Exception as error:
            logger.info("job %s is prepared when it starts, no sooner: %s", run.job_id, error)
            return None

    async def _connect(self, forked: ForkedWorker, run: RunJob) -> WorkerProcess:
        return await WorkerProcess.connect(forked, run.environment[processes.MARKER], run.job_id)

    async def _fork(self, stop: asyncio.Event, log_path: Path, environment: Mapping[str, str]) -> ForkedWorker | None:
        """A worker from the warm template if there is one or soon will be, else from the cold one."""
        await asyncio.to_thread(scratch.make, log_path.parent)
        why = []
        for template in (self._warm, self._cold) if self._settings.use_template else (self._cold,):
            if stop.is_set() or self._stopped:
                return None
            if template is self._cold:
                template.start()
            if not await _usable(template, stop):
                why.append(template.trouble)
                continue
            try:
                return await template.fork(log_path=log_path, environment=environment, working_dir=Path.cwd())
            except TemplateUnavailable as error:
                why.append(str(error))
        raise TemplateUnavailable("; ".join(dict.fromkeys(why)))

    def _order(self, job: Job, held: Sequence[LocalDevice], job_dir: Path, attempt: int) -> RunJob:
        threads = self._threads(len(held))
        return RunJob(
            job_id=job.job_id,
            spec_json=codec.encode(complete(job.spec, job_dir)),
            job_dir=str(job_dir.absolute()),
            device=torch_device(held),
            include_paths=[str(path.absolute()) for path in self._settings.include_paths],
            attempt=attempt,
            torch_threads=threads,
            environment={
                **self._settings.environment,
                **confine(held),
                **scratch.environment(job_dir),
                processes.MARKER: f"{job.job_id}.{attempt}",
                "OMP_NUM_THREADS": str(threads),
            },
            log_path=str(job_dir.absolute() / LOG_FILE),
            keep_model=self._model_key(job) is not None,
            labels=job.labels,
        )

    def _patience(self, spec: JobSpec) -> Patience:
        own = spec.stall_timeout if isinstance(spec, EvaluationSpec) else None
        return Patience(self._settings.heartbeat_timeout, self._settings.stall_timeout if own is None else own)

    def _model_key(self, job: Job) -> str | None:
        return model_key(job.spec) if self._settings.keep_model_warm else None

    def _model_stays(self, expected: ExpectedJob) -> bool:
        """Whether the job will find its model loaded, as far as one can tell: better than tasks that are prepared."""
        key = self._model_key(expected.job)
        if key is None:
            return False
        claim = _Claim(tuple(device.name for device in expected.devices), key)
        return self._residents.has(claim.devices, key) or claim in self._executions.values()

    def _unheld(self) -> Counter[str]:
        """How many devices of each name no job holds."""
        all_devices = Counter(local.device.name for local in self._devices)
        return all_devices - Counter(name for claim in self._executions.values() for name in claim.devices)

    def _find(self, devices: Sequence[Device]) -> list[LocalDevice]:
        by_name = {local.device.name: local for local in self._devices}
        return [by_name[device.name] for device in devices]

    def _threads(self, slots: int) -> int:
        if self._settings.torch_threads is not None:
            return self._settings.torch_threads
        cores = len(os.sched_getaffinity(0))
        return 1 if cores <= 2 else max(1, cores * slots // max(1, len(self._devices)))


async def _made_scratch(job_dir: Path) -> bool:
    """Whether there was room for it; if not, whoever makes a new worker waits for that."""
    try:
        await asyncio.to_thread(scratch.make, job_dir)
    except OSError as error:
        logger.warning("the temporary folder in %s cannot be made: %s", job_dir, error)
        return False
    return True


async def _usable(template: TemplateProcess, stop: asyncio.Event) -> bool:
    """Whether the template can fork; not waited for any longer once ``stop`` is set."""
    usable = asyncio.ensure_future(template.usable())
    return await _finishes(usable, stop) and usable.result() and not stop.is_set()


async def _finishes(work: Awaitable[object], stop: asyncio.Event) -> bool:
    """Whether ``work`` comes to its end, which is not waited for any longer once ``stop`` is set."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()  # or what it raised
        return True
    finally:
        working.cancel()
        stopped.cancel()


def _clear_leftovers(job_dirs: Sequence[Path]) -> None:
    for job_dir in job_dirs:
        identity = processes.read_identity(job_dir)
        if identity is not None and processes.members(identity):
            logger.warning("killing worker %d, which an earlier server left behind", identity.pid)
            if left := processes.end_members(identity, LEFTOVERS_TIMEOUT):
                logger.error("process %s of it cannot be killed and may hold its devices", _describe(left))
                continue
        processes.remove_identity(job_dir)
        scratch.remove(job_dir)


def _describe(left: Sequence[processes.Process]) -> str:
    return ", ".join(f"{process.pid} (state {process.state})" for process in left)

"""A machine that is in trouble for a while, or a template that hangs: what jobs make of it that have done nothing."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from lmms_eval_grpc.executors import helper_process, local, local_worker, template_child, worker_process
from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.executors.template_process import TemplateProcess
from lmms_eval_grpc.jobs.events import Completed, Failed, NotStarted, Stopped
from lmms_eval_grpc.worker import processes
from tests.executors.conftest import PATIENCE, Jobs, collect, descendants, is_alive, wait_for_log, wait_until

pytestmark = pytest.mark.slow

OpenJobs = Callable[..., AbstractAsyncContextManager[Jobs]]


@pytest.fixture
def open_jobs(tasks_dir: Path, tiny_checkpoint: Path, tmp_path: Path) -> OpenJobs:
    """Jobs whose workers import for themselves: the template of the last resort is the only one."""

    @asynccontextmanager
    async def open_jobs(slots: int = 1) -> AsyncIterator[Jobs]:
        executor = LocalExecutor(
            LocalExecutorSettings(devices=("cpu",) * slots, include_paths=(tasks_dir,), use_template=False)
        )
        await executor.start()
        try:
            await wait_until(lambda: template(executor).ready)
            yield Jobs(executor, tiny_checkpoint, tmp_path)
        finally:
            await executor.stop()
            assert descendants() == []

    return open_jobs


def template(executor: LocalExecutor) -> TemplateProcess:
    return executor._cold


def template_pid(jobs: Jobs) -> int:
    pid = template(jobs.executor).pid
    assert pid is not None
    return pid


async def test_a_template_that_dies_costs_the_jobs_that_ran_in_it_and_no_other(open_jobs: OpenJobs) -> None:
    async with open_jobs() as jobs:
        execution, job_dir = await jobs.start(jobs.spec("hang_with_children"))
        await wait_for_log(job_dir, "children: ")
        os.kill(template_pid(jobs), signal.SIGKILL)
        assert isinstance((await collect(execution))[-1], Failed)
        # At once, while there is no template at all.
        reports, _ = await jobs.run(jobs.spec("well_behaved"))
        assert isinstance(reports[-1], Completed)


async def test_a_template_that_has_run_out_of_descriptors_costs_time_but_no_job(open_jobs: OpenJobs) -> None:
    async with open_jobs() as jobs:
        exhausted = template_pid(jobs)
        _, most = resource.prlimit(exhausted, resource.RLIMIT_NOFILE)
        resource.prlimit(exhausted, resource.RLIMIT_NOFILE, (3, most))
        reports, _ = await jobs.run(jobs.spec("well_behaved"))
        assert isinstance(reports[-1], Completed)
        assert template_pid(jobs) != exhausted
        await wait_until(lambda: not is_alive(exhausted))


async def test_a_server_that_has_run_out_of_descriptors_for_a_while_fails_no_job(open_jobs: OpenJobs) -> None:
    async with open_jobs() as jobs:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            execution, _ = await jobs.start(jobs.spec("well_behaved"))
            await asyncio.sleep(0.5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert isinstance((await collect(execution))[-1], Completed)


@contextmanager
def no_template_for(jobs: Jobs) -> Iterator[None]:
    """The template dies, and no other comes up before this ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_child, "start_helper", lambda *_: helper_process.start_helper("lmms_eval_grpc.no_such"))
        os.kill(template_pid(jobs), signal.SIGKILL)
        yield


async def test_a_job_for_which_no_worker_can_be_had_is_handed_back_and_can_be_started_later(
    open_jobs: OpenJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_jobs() as jobs:
        with monkeypatch.context() as patch, no_template_for(jobs):
            patch.setattr(local, "START_PATIENCE", 0.5)
            reports, job_dir = await jobs.run(jobs.spec("well_behaved"))
        last = reports[-1]
        assert isinstance(last, NotStarted)
        assert last.reason.startswith("no worker could be started: the template process ended (exit status ")
        execution, _ = await jobs.start(jobs.spec("well_behaved"), attempt=2, job_dir=job_dir)
        assert isinstance((await collect(execution))[-1], Completed)


async def test_a_job_that_waits_for_a_template_is_cancelled_at_once(open_jobs: OpenJobs) -> None:
    async with open_jobs(slots=2) as jobs:
        with no_template_for(jobs):
            cancelled, _ = await jobs.start(jobs.spec("well_behaved"))
            waiting, _ = await jobs.start(jobs.spec("well_behaved"))
            await asyncio.sleep(1.5)
            began = time.monotonic()
            await cancelled.cancel("")
            assert isinstance((await collect(cancelled))[-1], Stopped)
            await jobs.executor.stop()
            assert isinstance((await collect(waiting))[-1], Stopped)
            assert time.monotonic() - began < 20


async def test_one_slow_fork_costs_no_running_job(open_jobs: OpenJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_child, "FORK_TIMEOUT", 1.0)
    async with open_jobs(slots=2) as jobs:
        running, job_dir = await jobs.start(jobs.spec("hang_with_children"))
        await wait_for_log(job_dir, "children: ")
        slow = template_pid(jobs)
        os.kill(slow, signal.SIGSTOP)
        reports, _ = await jobs.run(jobs.spec("well_behaved"))
        assert isinstance(reports[-1], Completed), "it has its worker from another template"
        assert template_pid(jobs) != slow
        identity = processes.read_identity(job_dir)
        assert identity is not None
        assert is_alive(identity.pid), "the first job goes on"
        os.kill(slow, signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert is_alive(identity.pid)
        await running.cancel("")
        assert isinstance((await collect(running))[-1], Stopped)
        await wait_until(lambda: not is_alive(slow))
        log = (job_dir.parent / "job-2" / "worker.log").read_text()
        assert log.count("attempt 1, process") == 1, "the fork that came too late found nobody and ended"


async def test_a_worker_that_dies_under_a_template_that_hangs_is_reported_without_it(open_jobs: OpenJobs) -> None:
    async with open_jobs() as jobs:
        execution, job_dir = await jobs.start(jobs.spec("hang_with_children"))
        await wait_for_log(job_dir, "children: ")
        identity = processes.read_identity(job_dir)
        assert identity is not None
        os.kill(template_pid(jobs), signal.SIGSTOP)
        began = time.monotonic()
        os.kill(identity.pid, signal.SIGKILL)
        last = (await collect(execution))[-1]
        assert time.monotonic() - began < local_worker.DRAIN_TIMEOUT / 2
        assert isinstance(last, Failed)
        assert last.error.reason == "WORKER_KILLED"
        assert "could not say how" in last.error.message
        assert not processes.members(identity)


async def test_a_process_that_does_not_die_keeps_its_devices_but_not_a_server_that_is_stopped(
    open_jobs: OpenJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "UNKILLABLE_AFTER", 1.0)
    spared: set[int] = set()
    kill = processes.kill
    # As the kernel does with one that waits for a driver.
    monkeypatch.setattr(processes, "kill", lambda pid: None if pid in spared else kill(pid))
    async with open_jobs(slots=2) as jobs:
        executions = []
        for _ in range(2):
            execution, job_dir = await jobs.start(jobs.spec("hang_with_children"))
            children = (await wait_for_log(job_dir, r"children: (\d+) (\d+)")).groups()
            spared.add(int(children[0]))
            executions.append((execution, job_dir, int(children[0])))
            await execution.cancel("")
        ended = [asyncio.create_task(collect(execution)) for execution, _, _ in executions]
        await asyncio.sleep(3)
        assert not any(task.done() for task in ended), "something still holds their devices"
        (_, first_dir, first), (_, second_dir, second) = executions
        spared.remove(first)
        assert isinstance((await ended[0])[-1], Stopped)
        assert not is_alive(first)
        assert processes.read_identity(first_dir) is None
        async with asyncio.timeout(PATIENCE):
            await jobs.executor.stop()
        assert isinstance((await ended[1])[-1], Stopped)
        left = processes.read_identity(second_dir)
        assert left is not None, "so that the next server finds it"
        assert [process.pid for process in processes.members(left)] in ([], [second])
        kill(second)
        await wait_until(lambda: not is_alive(second))


async def test_a_supervisor_survives_what_it_did_not_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    troubles: list[BaseException] = [OSError(24, "Too many open files"), ValueError("a bug")]
    real = socket.socketpair
    process = TemplateProcess(preload=False)

    def flaky() -> tuple[socket.socket, socket.socket]:
        if troubles:
            raise troubles.pop(0)
        return real()

    monkeypatch.setattr(socket, "socketpair", flaky)
    process.start()
    try:
        await wait_until(lambda: process.ready)
        assert troubles == []
        assert process.trouble == "the template process cannot be supervised: ValueError: a bug"
    finally:
        await process.stop()
    assert process.pid is None
    assert not process.ready

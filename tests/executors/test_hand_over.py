"""From one job to the next: workers that prepare a job before it has a device, and workers that keep their model."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from lmms_eval_grpc.executors import scratch
from lmms_eval_grpc.executors.base import ExpectedJob
from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.executors.local_worker import LocalExecution
from lmms_eval_grpc.jobs.events import Completed, Failed, Stopped, WorkerReport
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import EvaluationResult
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.worker import processes
from tests.executors.conftest import Jobs, collect, is_alive, wait_for_log, wait_until
from tests.support.checkpoints import build_checkpoint

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(tasks_dir: Path) -> AsyncIterator[LocalExecutor]:
    """Warm, with one slot, keeping models until a test wants it otherwise."""
    settings = LocalExecutorSettings(devices=("cpu",), include_paths=(tasks_dir,), keep_model_warm=3600.0)
    made = LocalExecutor(settings)
    await made.start()
    await wait_until(lambda: made.warm)
    yield made
    await made.stop()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_left(executor: LocalExecutor) -> AsyncIterator[None]:
    """No test finds what another one left."""
    yield
    executor.expect([], [])
    await executor._residents.make_room(["cpu"], Counter())
    await wait_until(lambda: not workers(executor))


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture as ``tiny_checkpoint``, other weights."""
    return build_checkpoint("idefics3", tmp_path_factory.mktemp("other") / "checkpoint", seed=1)


def workers(executor: LocalExecutor) -> list[psutil.Process]:
    template = executor._warm.pid
    assert template is not None
    return [one for one in psutil.Process(template).children() if is_alive(one.pid)]


class Queue:
    """Jobs that wait for the executor's only slot."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.count = 0

    def add(self, spec: EvaluationSpec) -> ExpectedJob:
        self.count += 1
        job = Job(self.jobs.new_id(), spec, JobState.QUEUED, time.time(), self.count)
        return ExpectedJob(job, self.jobs.executor.devices, self.jobs.folder / job.job_id)

    def expect(self, *upcoming: ExpectedJob, begun: tuple[str, ...] = ()) -> None:
        self.jobs.executor.expect(upcoming, begun)

    async def prepared(self, waiting: ExpectedJob) -> int:
        """The worker that has prepared the job, once it has."""
        await wait_for_log(waiting.job_dir, "prepared in .* waiting for a device")
        identity = processes.read_identity(waiting.job_dir)
        assert identity is not None
        return identity.pid

    async def start(self, waiting: ExpectedJob) -> LocalExecution:
        running = Job(waiting.job.job_id, waiting.job.spec, JobState.RUNNING, time.time(), waiting.job.order, attempt=1)
        return await self.jobs.executor.execute(running, waiting.devices, waiting.job_dir)

    async def run(self, waiting: ExpectedJob) -> list[WorkerReport]:
        return await collect(await self.start(waiting))


@pytest.fixture
def queue(jobs: Jobs) -> Queue:
    return Queue(jobs)


def pids(job_dir: Path) -> list[int]:
    """The processes that have run the job, first to last."""
    found = re.findall(r"attempt \d+, process (\d+)", (job_dir / "worker.log").read_text())
    return [int(pid) for pid in found]


def answers(job_dir: Path) -> dict[int, str]:
    lines = map(json.loads, (job_dir / "run_log.jsonl").read_text().splitlines())
    return {line["doc_id"]: line["text"] for line in lines if line["kind"] == "answer"}


def completed(reports: list[WorkerReport]) -> EvaluationResult:
    assert isinstance(reports[-1], Completed), reports[-1]
    assert isinstance(reports[-1].result, EvaluationResult)
    return reports[-1].result


def manifest(reports: list[WorkerReport]) -> dict[str, object]:
    found: dict[str, object] = json.loads(completed(reports).manifest_json)
    return found


class TestPrepared:
    async def test_a_job_that_waits_is_prepared_and_then_run_by_the_same_worker(self, queue: Queue) -> None:
        running, _ = await queue.jobs.start(queue.jobs.spec("dawdle", batch_size=1, limit_count=200))
        waiting = queue.add(queue.jobs.spec("well_behaved"))
        queue.expect(waiting)
        pid = await queue.prepared(waiting)
        assert is_alive(pid)
        log = (waiting.job_dir / "worker.log").read_text()
        assert "stage:" not in log, "it has not begun"
        queue.expect(waiting)
        assert await queue.prepared(waiting) == pid, "told again, nothing changes"

        await running.cancel("enough")
        await collect(running)
        result = completed(await queue.run(waiting))
        assert pids(waiting.job_dir) == [pid]
        assert (waiting.job_dir / "worker.log").read_text().count("prepared in") == 1
        plain, plain_dir = await queue.jobs.run(queue.jobs.spec("well_behaved", batch_size=64))
        assert pids(plain_dir) != [pid]
        assert answers(waiting.job_dir) == answers(plain_dir)
        assert result.task_results[0].metrics == completed(plain).task_results[0].metrics
        assert not (waiting.job_dir / processes.IDENTITY_FILE).exists()

    async def test_a_job_that_is_not_next_any_more_loses_its_worker(self, queue: Queue) -> None:
        first, second = (queue.add(queue.jobs.spec("well_behaved")) for _ in range(2))
        queue.expect(first)
        pid = await queue.prepared(first)
        queue.expect(second)
        other = await queue.prepared(second)
        await wait_until(lambda: not is_alive(pid))
        await wait_until(lambda: not (first.job_dir / processes.IDENTITY_FILE).exists())
        # The displaced job's turn comes all the same, and again with a worker of its own.
        queue.expect(first, begun=(second.job.job_id,))
        completed(await queue.run(second))
        assert pids(second.job_dir) == [other]
        completed(await queue.run(first))
        assert pid not in pids(first.job_dir)

    async def test_nothing_is_prepared_before_the_running_job_generates(self, queue: Queue) -> None:
        running, job_dir = await queue.jobs.start(queue.jobs.spec("dawdle", batch_size=1, limit_count=200))
        waiting = queue.add(queue.jobs.spec("well_behaved"))
        queue.expect(waiting)
        await queue.prepared(waiting)
        first_line = (waiting.job_dir / "worker.log").read_text().splitlines()[0]
        generating = await wait_for_log(job_dir, r"(.*) INFO .*stage: generating")
        assert first_line[:23] > generating[1][:23]
        await running.cancel("enough")
        await collect(running)

    @pytest.mark.parametrize("moment", ["before", "at the hand-over"])
    async def test_a_prepared_worker_that_is_killed_costs_nothing(self, queue: Queue, moment: str) -> None:
        waiting = queue.add(queue.jobs.spec("well_behaved"))
        queue.expect(waiting)
        pid = await queue.prepared(waiting)
        if moment == "before":
            os.kill(pid, signal.SIGKILL)
            await wait_until(lambda: not (waiting.job_dir / processes.IDENTITY_FILE).exists())
            completed(await queue.run(waiting))
        else:
            # It does not read what it is told, then dies: as if it had died in between.
            os.kill(pid, signal.SIGSTOP)
            run = asyncio.create_task(queue.run(waiting))
            await wait_until(lambda: waiting.job.job_id not in queue.jobs.executor._prepared._waiting)
            await asyncio.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
            completed(await run)
        assert len(pids(waiting.job_dir)) == 1
        assert pid not in pids(waiting.job_dir)

    async def test_what_cannot_be_prepared_fails_when_it_is_run_and_no_sooner(self, queue: Queue) -> None:
        waiting = queue.add(queue.jobs.spec("no_such_task"))
        queue.expect(waiting)
        await wait_for_log(waiting.job_dir, "preparing ahead failed")
        await wait_until(lambda: not (waiting.job_dir / processes.IDENTITY_FILE).exists())
        failed = (await queue.run(waiting))[-1]
        assert isinstance(failed, Failed)
        assert failed.error.reason == "UNKNOWN_TASK"

    async def test_a_checkpoint_that_is_written_later_or_anew_counts_as_it_is_when_the_job_runs(
        self, queue: Queue, tiny_checkpoint: Path, other_checkpoint: Path, tmp_path: Path
    ) -> None:
        _, fresh_dir = await queue.jobs.run(
            queue.jobs.spec("well_behaved", model_args={"pretrained": str(other_checkpoint)}, batch_size=64)
        )
        folder = tmp_path / "checkpoint"
        waiting = queue.add(queue.jobs.spec("well_behaved", model_args={"pretrained": str(folder)}))
        queue.expect(waiting)
        pid = await queue.prepared(waiting)
        assert "the model cannot be prepared yet" in (waiting.job_dir / "worker.log").read_text()
        shutil.copytree(other_checkpoint, folder)
        completed(await queue.run(waiting))
        assert pids(waiting.job_dir) == [pid]
        assert answers(waiting.job_dir) == answers(fresh_dir)

        shutil.copytree(tiny_checkpoint, folder, dirs_exist_ok=True)
        rewritten = queue.add(queue.jobs.spec("well_behaved", model_args={"pretrained": str(folder)}, batch_size=32))
        queue.expect(rewritten)
        pid = await queue.prepared(rewritten)
        shutil.copytree(other_checkpoint, folder, dirs_exist_ok=True)
        completed(await queue.run(rewritten))
        assert pids(rewritten.job_dir) == [pid]
        assert answers(rewritten.job_dir) == answers(fresh_dir)

    async def test_another_attempt_is_not_run_by_a_worker_of_the_first(self, queue: Queue) -> None:
        waiting = queue.add(queue.jobs.spec("well_behaved"))
        queue.expect(waiting)
        pid = await queue.prepared(waiting)
        later = Job(waiting.job.job_id, waiting.job.spec, JobState.RUNNING, time.time(), 1, attempt=2)
        completed(await collect(await queue.jobs.executor.execute(later, waiting.devices, waiting.job_dir)))
        assert not is_alive(pid)
        assert pid not in pids(waiting.job_dir)


class TestKept:
    async def test_the_next_checkpoint_is_answered_for_by_the_same_worker_as_by_a_new_one(
        self, jobs: Jobs, other_checkpoint: Path
    ) -> None:
        other = {"pretrained": str(other_checkpoint)}
        sampled = {"gen_kwargs": {"do_sample": True, "temperature": 1.0}}
        # A worker of its own each, because each wants a batch size of its own.
        fresh = [
            await jobs.run(jobs.spec("well_behaved", batch_size=61)),
            await jobs.run(jobs.spec("well_behaved", batch_size=62, model_args=other)),
            await jobs.run(jobs.spec("well_behaved", batch_size=63, model_args=other, **sampled)),
        ]
        kept = [
            await jobs.run(jobs.spec("well_behaved")),
            await jobs.run(jobs.spec("well_behaved", model_args=other)),
            await jobs.run(jobs.spec("well_behaved", model_args=other, **sampled)),
        ]
        assert len({pids(job_dir)[0] for _, job_dir in fresh}) == 3
        assert len({pids(job_dir)[0] for _, job_dir in kept}) == 1
        assert answers(kept[0][1]) != answers(kept[1][1])
        for (reports, job_dir), (wanted, wanted_dir) in zip(kept, fresh, strict=True):
            assert answers(job_dir) == answers(wanted_dir)
            assert completed(reports).task_results[0].metrics == completed(wanted).task_results[0].metrics
            assert manifest(reports)["model"] == manifest(wanted)["model"]
            assert (job_dir / "worker.log").read_text().count("completed; results") == 1
            assert not (job_dir / processes.IDENTITY_FILE).exists()

    async def test_a_job_finds_nothing_of_the_one_before_it_but_the_model(self, jobs: Jobs) -> None:
        found = [await jobs.run(jobs.spec("leave_marks")) for _ in range(2)]
        assert pids(found[0][1]) == pids(found[1][1])
        for _, job_dir in found:
            job = await wait_for_log(job_dir, r"job (\S+), attempt 1")
            first = await wait_for_log(job_dir, r"marks: (.*), worker: (.*)")
            assert (first[1], first[2]) == ("[]", f"{job[1]}.1")

    async def test_another_model_ends_it_before_it_starts(self, jobs: Jobs) -> None:
        _, first = await jobs.run(jobs.spec("well_behaved"))
        (pid,) = pids(first)
        assert is_alive(pid)
        execution, second = await jobs.start(jobs.spec("well_behaved", batch_size=3))
        await wait_for_log(second, "stage: preparing")
        assert not is_alive(pid)
        completed(await collect(execution))

    async def test_a_checkpoint_that_cannot_be_put_in_its_place_gets_a_new_worker(
        self, jobs: Jobs, tmp_path: Path, other_checkpoint: Path
    ) -> None:
        folder = shutil.copytree(other_checkpoint, tmp_path / "other setting")
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["rms_norm_eps"] = 0.5
        (folder / "config.json").write_text(json.dumps(config))
        spec = jobs.spec("well_behaved", model_args={"pretrained": str(folder)})
        _, first = await jobs.run(jobs.spec("well_behaved"))
        reports, second = await jobs.run(spec)
        completed(reports)
        assert "cannot serve this job" in (second / "worker.log").read_text()
        assert pids(first) != pids(second)
        assert not is_alive(pids(first)[0])
        await jobs.executor._residents.make_room(["cpu"], Counter())
        _, fresh = await jobs.run(spec)
        assert answers(second) == answers(fresh)

    async def test_it_ends_when_nobody_has_needed_it_for_a_while(
        self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs.executor._residents, "_idle_timeout", 0.1)
        _, job_dir = await jobs.run(jobs.spec("well_behaved"))
        await wait_until(lambda: not is_alive(pids(job_dir)[0]))

    async def test_one_that_is_killed_costs_nothing(self, jobs: Jobs) -> None:
        _, first = await jobs.run(jobs.spec("well_behaved"))
        os.kill(pids(first)[0], signal.SIGKILL)
        reports, second = await jobs.run(jobs.spec("well_behaved"))
        completed(reports)
        assert pids(first) != pids(second)

    @pytest.mark.parametrize("task", ["leave_children_behind", "leave_a_fork_behind"])
    async def test_one_whose_job_left_processes_behind_is_not_kept(self, jobs: Jobs, task: str) -> None:
        reports, job_dir = await jobs.run(jobs.spec(task))
        completed(reports)
        assert not is_alive(pids(job_dir)[0])
        assert not workers(jobs.executor)

    async def test_a_job_that_fails_or_is_cancelled_leaves_none(self, jobs: Jobs) -> None:
        _, first = await jobs.run(jobs.spec("well_behaved"))
        execution, second = await jobs.start(jobs.spec("hang_with_children"))
        await wait_for_log(second, "children: ")
        assert pids(first) == pids(second)
        await execution.cancel("enough")
        assert isinstance((await collect(execution))[-1], Stopped)
        assert not workers(jobs.executor)
        failed, _ = await jobs.run(jobs.spec("call_sys_exit"))
        assert isinstance(failed[-1], Failed)
        assert not workers(jobs.executor)

    async def test_a_job_that_was_prepared_before_the_model_was_there_keeps_its_temporary_folder(
        self, queue: Queue
    ) -> None:
        running, _ = await queue.jobs.start(queue.jobs.spec("dawdle", batch_size=1, limit_count=200))
        waiting = queue.add(queue.jobs.spec("dawdle", limit_count=200))
        queue.expect(waiting)
        prepared = await queue.prepared(waiting)
        await running.cancel("enough")
        await collect(running)
        # Another job goes first, whose model the one that is prepared can have.
        _, before = await queue.jobs.run(queue.jobs.spec("well_behaved"))
        execution = await queue.start(waiting)
        await wait_for_log(waiting.job_dir, "stage: generating")
        assert pids(waiting.job_dir) == pids(before)
        assert not is_alive(prepared)
        assert (waiting.job_dir / scratch.FOLDER).is_dir()
        await execution.cancel("enough")
        await collect(execution)

    async def test_the_next_job_is_not_prepared_where_the_model_will_be_there(self, queue: Queue) -> None:
        running, _ = await queue.jobs.start(queue.jobs.spec("dawdle", limit_count=200))
        waiting = queue.add(queue.jobs.spec("well_behaved"))
        queue.expect(waiting)
        assert queue.jobs.executor._prepared._waiting == {}
        await running.cancel("enough")
        await collect(running)

"""Workers that run out of memory, by an error of their own or by the kernel's hand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmms_eval_grpc.executors.death import describe_death
from lmms_eval_grpc.executors.memory_kills import MemoryKills, count_memory_kills
from lmms_eval_grpc.jobs.events import Completed, Failed
from lmms_eval_grpc.jobs.results import JobErrorCode
from tests.executors.conftest import Jobs

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 64 << 20


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group that allows 64 MiB; skips where none can be made."""
    places = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))
    for root, limit in places:
        group = root / f"lmms-eval-grpc-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(LIMIT))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no control group with a memory limit can be made here")


async def test_a_worker_that_the_kernel_killed_for_memory_says_so(jobs: Jobs, memory_group: Path) -> None:
    before = count_memory_kills()
    (jobs.folder / "memory_group").write_text(str(memory_group))
    reports, _ = await jobs.run(jobs.spec("be_killed_for_memory"))
    assert count_memory_kills().more_than(before)
    failed = reports[-1]
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.error.reason) == (JobErrorCode.OUT_OF_MEMORY, "KILLED_FOR_MEMORY")
    assert "smaller batch_size" in failed.error.message
    assert "about to take too much memory" in failed.error.log_tail
    reports, _ = await jobs.run(jobs.spec("well_behaved"))
    assert isinstance(reports[-1], Completed)


async def test_an_allocation_that_fails_is_want_of_memory_and_not_a_wrong_answer(jobs: Jobs) -> None:
    reports, _ = await jobs.run(jobs.spec("ask_for_too_much_memory"))
    failed = reports[-1]
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.error.reason) == (JobErrorCode.OUT_OF_MEMORY, "OUT_OF_MEMORY")
    assert "smaller batch_size" in failed.error.message


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        ("4:memory:/a/b\n0::/", "memory/a/b/memory.oom_control"),
        ("4:memory:/a/b\n0::/", "memory/memory.oom_control"),
        ("0::/system.slice/eval.service", "system.slice/eval.service/memory.events"),
        ("0::/", "memory.events"),
    ],
)
async def test_the_kernels_count_is_found_in_both_generations_of_control_groups(
    tmp_path: Path, cgroup: str, file: str
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(cgroup)
    assert count_memory_kills(proc, groups) == MemoryKills(None, None)
    (groups / file).parent.mkdir(parents=True)
    (groups / file).write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    (proc / "vmstat").write_text("pgfault 7\noom_kill 11\n")
    assert count_memory_kills(proc, groups) == MemoryKills(3, 11)


async def test_the_best_evidence_decides_what_a_kill_is_taken_for() -> None:
    assert MemoryKills(1, None).more_than(MemoryKills(0, None))
    assert MemoryKills(0, 5).more_than(MemoryKills(0, 4))
    assert not MemoryKills(0, 4).more_than(MemoryKills(None, 4))
    assert describe_death(-9, True, True).code is JobErrorCode.OUT_OF_MEMORY
    assert describe_death(None, True, True).code is JobErrorCode.OUT_OF_MEMORY
    assert describe_death(-11, True, True).code is JobErrorCode.WORKER_DIED
    assert "not by the kernel's" in describe_death(-9, True, False).message
    assert "if nobody did that on purpose" in describe_death(-9, False, False).message

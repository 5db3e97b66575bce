"""Workers that run out of memory, and what is taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmms_eval_grpc.executors.death import describe_death
from lmms_eval_grpc.executors.memory_kills import MemoryKills, count_memory_kills
from lmms_eval_grpc.jobs.events import Failed
from lmms_eval_grpc.jobs.results import JobErrorCode
from tests.executors.conftest import Jobs

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
    assert MemoryKills(None, 5).more_than(MemoryKills(None, 4))
    assert not MemoryKills(0, 5).more_than(MemoryKills(0, 4)), "somebody else's process, in another group"
    assert not MemoryKills(0, 4).more_than(MemoryKills(None, 4))
    assert describe_death(-9, True, True).code is JobErrorCode.OUT_OF_MEMORY
    assert describe_death(None, True, True).code is JobErrorCode.OUT_OF_MEMORY
    assert describe_death(-11, True, True).code is JobErrorCode.WORKER_DIED
    assert "not by the kernel's" in describe_death(-9, True, False).message
    assert "if nobody did that on purpose" in describe_death(-9, False, False).message

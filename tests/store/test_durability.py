"""What was acknowledged survives ``kill -9``."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lmms_eval_grpc.store.base import JobFilter
from lmms_eval_grpc.store.sqlite import SqliteStore

WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from lmms_eval_grpc.jobs.state import JobState
    from lmms_eval_grpc.store.sqlite import SqliteStore
    from tests.jobs.examples import progress, queued, task_result, then

    async def live(store, first):
        # Several jobs at once, so that the kill meets a group commit under way.
        order = first
        while True:
            job, event = queued(order)
            await store.insert(job, event)
            for body in (JobState.RUNNING, progress(1), task_result("digits"), progress(2)):
                print(job.job_id, job.sequence, flush=True)
                job, event = then(job, body)
                await store.append(job, event)
            print(job.job_id, job.sequence, flush=True)
            order += 8

    async def main():
        store = SqliteStore(Path(sys.argv[1]))
        await store.open()
        await asyncio.gather(*(live(store, first) for first in range(1, 9)))

    asyncio.run(main())
    """
)


def acknowledged_before_kill(path: Path, lines: int) -> dict[str, int]:
    """Lets a writer work until it has reported ``lines`` writes, kills it, and returns each job's newest sequence."""
    acknowledged: dict[str, int] = {}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as writer:
        assert writer.stdout is not None
        for number, line in enumerate(writer.stdout, start=1):
            if number == lines:
                writer.kill()
            # Whole lines that were printed before the kill took effect count as well.
            if line.endswith("\n"):
                job_id, sequence = line.split()
                acknowledged[job_id] = int(sequence)
    assert writer.returncode == -signal.SIGKILL
    return acknowledged


@pytest.mark.parametrize("lines", [1, 100, 1500])
async def test_every_acknowledged_write_is_there_after_a_kill(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "jobs.sqlite3"
    acknowledged = await asyncio.to_thread(acknowledged_before_kill, path, lines)
    store = SqliteStore(path)
    await store.open()
    try:
        found = {job.job_id: job for job in await store.page(JobFilter(), before_order=None, size=10_000, full=True)}
        assert acknowledged.keys() <= found.keys()
        for job_id, sequence in acknowledged.items():
            job = found[job_id]
            # The one write that was under way may have made it, nothing else.
            assert job.sequence in (sequence, sequence + 1)
            events = await store.events(job_id)
            assert events[-1].sequence == job.sequence
            kept = [event.sequence for event in events if not event.supersedable]
            assert kept == [number for number in (1, 2, 4) if number <= job.sequence]
    finally:
        await store.close()

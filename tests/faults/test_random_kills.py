"""Servers, templates and workers are killed at random points over hundreds of short jobs; then the invariants hold."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import echo_model
from tests.faults.invariants import violations
from tests.faults.killer import Killer
from tests.faults.life import Life
from tests.faults.traffic import SLOTS, Traffic

HEARTBEAT_TIMEOUT = 6.0
MAX_ATTEMPTS = 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_nothing_acknowledged_is_lost_whatever_is_killed_when(
    tmp_path: Path, faults: tuple[int, int, int], record_property: pytest.RecordProperty
) -> None:
    seed, jobs, kills = faults
    print(f"fault seed {seed}: {jobs} jobs, {kills} kills", flush=True)
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    flags = [
        *("--devices", "cpu") * SLOTS,
        *("--include-path", str(tmp_path / "tasks")),
        *("--heartbeat-timeout", str(HEARTBEAT_TIMEOUT), "--max-attempts", str(MAX_ATTEMPTS)),
    ]
    life = Life(tmp_path, echo_model.install(tmp_path), flags)
    killer = Killer(life, random.Random(f"{seed} killer"), kills)
    traffic = Traffic(life.address, evidence, random.Random(f"{seed} traffic"), jobs)
    began = time.monotonic()
    try:
        life.begin()
        async with asyncio.timeout(3000):
            killing = asyncio.create_task(killer.run())

            def may_submit(share: float) -> bool:
                # Jobs come as the kills do, the last ones one by one, so that there is something to hit to the end.
                return killing.done() or (traffic.idle if share > 0.9 else killer.progress >= share - 0.05)

            await traffic.run(may_submit, killing.done)
            await killing
        await life.end()
        left = life.everything()
    finally:
        life.kill_all()
    took = time.monotonic() - began
    states = Counter(
        event.state_change.state for one in traffic.submissions for event in one.events[-1:] if event.state_change
    )
    summary = (
        f"fault seed {seed}: {len(traffic.submissions)} jobs,"
        f" {killer.kills} kills ({dict(killer.done)}, {killer.missed} missed),"
        f" {life.starts} server starts, {traffic.answers_lost} calls lost, ends {dict(states)}, {took:.0f} s"
    )
    print(summary, flush=True)
    record_property("faults", summary)
    found = await violations(life.state_dir, evidence, traffic.submissions, MAX_ATTEMPTS)
    found += [f"process {process.pid} ({process.name()}) is left" for process in left]
    assert not found, "\n".join([summary, *found, f"run it again with --fault-seed {seed}"])
    assert killer.kills >= kills

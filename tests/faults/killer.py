"""Kills and stops processes by a plan that follows from a seed. Where exactly each strikes is up to the machine."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter

import psutil

from tests.faults.life import TEMPLATE, WORKER, Life

SERVER = "server"
HANG = "hang"
"""Stops a worker's process, which then lives and does nothing."""
HANG_TEMPLATE = "template hangs"
PAUSE = "pause"
"""Stops the server's process, and lets it go on a moment later."""
SHARES = {WORKER: 0.68, TEMPLATE: 0.13, SERVER: 0.13}
STOPS = {HANG: 0.03, HANG_TEMPLATE: 0.01, PAUSE: 0.03}
"""What comes to the kills, by their number."""
PATIENCE = 120.0


def make_plan(rng: random.Random, strikes: int) -> list[str]:
    """The strikes, in their order: so many kills, and some stops beside them."""
    plan = [kind for kind, share in SHARES.items() for _ in range(max(1, round(share * strikes)))]
    plan += [WORKER] * (strikes - len(plan))
    plan += [kind for kind, share in STOPS.items() for _ in range(max(1, round(share * strikes)))]
    rng.shuffle(plan)
    return plan


class Killer:
    """Carries a plan out."""

    def __init__(self, life: Life, rng: random.Random, strikes: int) -> None:
        self.plan = make_plan(rng, strikes)
        self.done: Counter[str] = Counter()
        self.missed = 0
        self._life = life
        self._rng = rng

    @property
    def progress(self) -> float:
        """Share of the plan that is carried out."""
        return (sum(self.done.values()) + self.missed) / len(self.plan)

    @property
    def kills(self) -> int:
        return sum(count for kind, count in self.done.items() if kind in SHARES)

    async def run(self) -> None:
        """To the plan's end."""
        for kind in self.plan:
            # Right after a server's or a template's end too: the next strike may hit what is just starting.
            await asyncio.sleep(self._rng.uniform(0.0, 0.3 if kind in (WORKER, HANG) else 2.5))
            deadline = time.monotonic() + PATIENCE
            while not await self._strike(kind):
                await asyncio.sleep(self._rng.uniform(0.0, 0.05))
                if time.monotonic() > deadline:
                    self.missed += 1
                    break
            else:
                self.done[kind] += 1

    async def _strike(self, kind: str) -> bool:
        if kind in (SERVER, PAUSE):
            process = self._life.process
            if process is None or process.returncode is not None:
                return False
            if kind == SERVER:
                process.kill()
                await process.wait()
                return True
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(self._rng.uniform(0.5, 2.0))
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            return True
        name = TEMPLATE if kind in (TEMPLATE, HANG_TEMPLATE) else WORKER
        victims = await asyncio.to_thread(self._life.named, name)
        if not victims:
            return False
        try:
            self._rng.choice(victims).send_signal(signal.SIGKILL if kind in SHARES else signal.SIGSTOP)
        except psutil.NoSuchProcess:
            return False
        return True

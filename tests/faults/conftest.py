"""Seeds and sizes of the fault suite."""

from __future__ import annotations

import os
import secrets

import pytest

USUAL = (200, 60)
LONG = (1000, 300)
"""Jobs and kills."""


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    """The seed, the number of jobs, and the number of kills."""
    given = request.config.getoption("--fault-seed")
    seed = int(given if given is not None else os.environ.get("FAULT_SEED") or secrets.randbelow(1_000_000))
    jobs, kills = LONG if request.config.getoption("--faults-long") else USUAL
    wanted = request.config.getoption("--fault-jobs")
    if wanted is not None:
        jobs, kills = wanted, max(1, round(wanted * kills / jobs))
    return seed, jobs, kills

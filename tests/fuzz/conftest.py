"""The seed and the length of a run, and the server that it is against."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from tests.fuzz.target import Target

USUAL_SECONDS = 60.0


@pytest.fixture(scope="session")
def fuzz_seed(request: pytest.FixtureRequest) -> int:
    """``--fuzz-seed``, or FUZZ_SEED, or a random one."""
    given = request.config.getoption("--fuzz-seed")
    return int(given if given is not None else os.environ.get("FUZZ_SEED") or secrets.randbelow(1_000_000))


@pytest.fixture(scope="session")
def fuzz_seconds(request: pytest.FixtureRequest) -> float:
    """``--fuzz-seconds``."""
    given = request.config.getoption("--fuzz-seconds")
    return float(USUAL_SECONDS if given is None else given)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server as a process of its own."""
    with Target(tmp_path_factory.mktemp("fuzz") / "target") as started:
        yield started

"""The seed and the length of a run, and the server that it is against."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fuzz.target import Target

USUAL_SEED = 4
USUAL_SECONDS = 60.0


@pytest.fixture(scope="session")
def fuzz_seed(request: pytest.FixtureRequest) -> int:
    """``--fuzz-seed``, or FUZZ_SEED, or the usual one: a change is not to fail for what was there before it."""
    given = request.config.getoption("--fuzz-seed")
    return int(given if given is not None else os.environ.get("FUZZ_SEED") or USUAL_SEED)


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

"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

# A machine that is busy is no finding: an example, and drawing it, may take its time.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

if TYPE_CHECKING:
    from tests.support.sharded_checkpoints import ShardedFolders

# Nothing may look for a hub, and a GOAWAY line at every server's stop is noise.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny Idefics3 checkpoint: real architecture, random weights."""
    from tests.support.checkpoints import build_checkpoint

    return build_checkpoint("idefics3", tmp_path_factory.mktemp("checkpoints") / "idefics3")


@pytest.fixture(scope="session")
def one_torch_thread() -> None:
    """Two threads on two busy cores are slower than one."""
    import torch  # here and below late: many tests need no model library

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, one_torch_thread: None) -> dict[int, Path]:
    """Checkpoints of a model that learned to read digits, by training step."""
    from tests.support.checkpoints import build_trained_checkpoints

    return build_trained_checkpoints(tmp_path_factory.mktemp("trained"))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "the fault suite (tests/faults)")
    group.addoption("--fault-seed", type=int, help="seed of the schedule of kills (default: FAULT_SEED, else random)")
    group.addoption("--fault-jobs", type=int, help="number of jobs; kills in proportion")
    group.addoption("--faults-long", action="store_true", help="1,000 jobs and 300 kills instead of 200 and 60")
    group = parser.getgroup("fuzz", "the fuzz suite (tests/fuzz)")
    group.addoption("--fuzz-seed", type=int, help="seed of the generated requests (default: FUZZ_SEED, else random)")
    group.addoption("--fuzz-seconds", type=float, help="how long requests are sent (default: 60)")


@pytest.fixture(scope="session")
def sharded_digits(trained: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> ShardedFolders:
    """The trained model that reads digits, as FSDP2 training leaves it."""
    from tests.support.sharded_checkpoints import shard_checkpoints

    return shard_checkpoints(tmp_path_factory.mktemp("sharded"), {"digits": trained[max(trained)]})["digits"]

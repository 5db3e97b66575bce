"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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


@pytest.fixture(scope="session")
def sharded_digits(trained: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> ShardedFolders:
    """The trained model that reads digits, as FSDP2 training leaves it."""
    from tests.support.sharded_checkpoints import shard_checkpoints

    return shard_checkpoints(tmp_path_factory.mktemp("sharded"), {"digits": trained[max(trained)]})["digits"]

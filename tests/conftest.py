"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Nothing may look for a hub, and a GOAWAY line at every server's stop is noise.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny Idefics3 checkpoint: real architecture, random weights."""
    from tests.support.checkpoints import build_checkpoint

    return build_checkpoint("idefics3", tmp_path_factory.mktemp("checkpoints") / "idefics3")

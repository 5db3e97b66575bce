"""What all tests of benchmarks need: no judge from the developer's own environment."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMMS_EVAL_GRPC_JUDGE_MODEL", raising=False)

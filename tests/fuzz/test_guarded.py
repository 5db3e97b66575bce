"""Generated requests to a server that asks who calls and bounds what they may do: of callers who may, of those who may
not, and of strangers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from lmms_eval_grpc.server.auth.table import MINIMUM_ROLES
from lmms_eval_grpc.server.principals import Role
from tests.fuzz.driver import Driver
from tests.fuzz.target import Target


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with Target(tmp_path_factory.mktemp("fuzz") / "guarded", guarded=True) as started:
        yield started


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nobody_gets_an_answer_that_is_not_for_them(guarded: Target, fuzz_seed: int, fuzz_seconds: float) -> None:
    print(f"fuzz seed {fuzz_seed}", flush=True)
    report = asyncio.run(Driver(guarded, fuzz_seed).run(seconds=fuzz_seconds / 2)).plain()
    print(json.dumps(report), flush=True)
    assert not report["problems"], f"{json.dumps(report['problems'], indent=1)}\n{report['kept']}"
    assert not report["logged_tracebacks"], guarded.log.read_text()[-6000:]
    # It reached what it is about: every method was called by those who may, those who may not, and strangers.
    refusals = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
    for path, needed in MINIMUM_ROLES.items():
        codes = report["codes_by_method"].get(path, {}).keys()
        wanted = {"UNAUTHENTICATED"} if needed > Role.NONE else set()
        wanted |= {"PERMISSION_DENIED"} if needed > Role.READ else set()
        reached = wanted <= codes and codes - refusals
        assert reached or report["requests"] < 5_000, (path, sorted(codes))
    refused = {line["code"] for line in guarded.audited() if "code" in line}
    assert {"OK", "UNAUTHENTICATED", "PERMISSION_DENIED"} <= refused

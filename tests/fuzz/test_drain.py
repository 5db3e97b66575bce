"""Generated orders to drain: each is refused with words, or it drains a real server."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import grpc
import pytest

from lmms_eval_grpc.v1 import admin_service_pb2 as admin
from tests.fuzz.methods import BY_NAME
from tests.fuzz.rules import Answer, Request, Rules
from tests.fuzz.values import Maker
from tests.server.conftest import NewRig, new_rig

__all__ = ["new_rig"]


@pytest.mark.parametrize("number", range(12))
async def test_an_order_to_drain_drains_or_is_refused(
    new_rig: NewRig, tmp_path: Path, fuzz_seed: int, number: int
) -> None:
    rng = random.Random(f"{fuzz_seed} {number}")
    order = admin.DrainRequest()
    Maker(rng).fill(order, share=0.7)
    rig = await new_rig()
    rules = Rules([str(tmp_path)], largest_request=2**20)
    channel: Any = rig.channel
    call = channel.unary_unary(BY_NAME["Drain"].path)(order.SerializeToString(), timeout=60)
    code = await call.code()
    answer = Answer(code, await call.details() or "", tuple(await call.trailing_metadata() or ()))
    assert rules.problems(Request(BY_NAME["Drain"], (order.SerializeToString(),)), answer) == [], fuzz_seed
    if code is grpc.StatusCode.OK:
        await rig.server.wait_closed()

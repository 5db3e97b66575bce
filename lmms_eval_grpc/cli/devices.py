"""The server's devices, as a table."""

from __future__ import annotations

from collections.abc import Iterable

from lmms_eval_grpc.cli.output import Table
from lmms_eval_grpc.cli.words import format_bytes
from lmms_eval_grpc.v1.catalog_pb2 import Slot


def tabulate_slots(slots: Iterable[Slot]) -> Table:
    """One row per device, with the job that holds it."""
    rows = [
        (
            str(slot.index),
            slot.device,
            slot.device_name,
            format_bytes(slot.memory_bytes) if slot.memory_bytes else "",
            slot.job_id or "free",
        )
        for slot in slots
    ]
    headings = ("slot", "device", "name", "memory", "job")
    return Table(headings, rows, right_aligned=frozenset({"slot", "memory"}), foldable=frozenset({"name"}))

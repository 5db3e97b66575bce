"""Many watchers, stalled ones among them, and bursts: the load of ``benchmarks/load.py``, in small, at any speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.load_generator import scenarios
from benchmarks.load_generator.figures import Target, percentile, summarize

pytestmark = pytest.mark.slow


def wrong(targets: list[Target]) -> list[str]:
    """The targets that are missed, but for those that a slow machine may miss."""
    return [str(target) for target in targets if not target.timing and not target.passed]


def test_watchers_see_every_state_in_order_whoever_does_not_read(tmp_path: Path) -> None:
    figures, targets = scenarios.watched(scenarios.TINY, tmp_path, scenarios.TINY.stalled)
    assert not wrong(targets), figures
    assert figures["bytes_unread_by_them"] > 500_000, "those that do not read have room for everything"
    # QUEUED, RUNNING, COMPLETED; and QUEUED, RUNNING, CANCELLING, CANCELLED.
    assert figures["states_of_each_job"] == [3, 4]
    assert (figures["out_of_order"], figures["broken"], figures["watchers_that_missed_a_state"]) == (0, 0, 0)
    assert figures["reports_told"] >= scenarios.JOBS
    assert figures["messages"] > 4 * scenarios.TINY.watchers
    assert figures["unary_busy"]["Evaluate"]["count"] > 0


def test_an_event_reaches_all_idle_watchers(tmp_path: Path) -> None:
    figures, targets = scenarios.fanout(scenarios.TINY, tmp_path)
    assert not wrong(targets), figures
    assert [figures[str(number)]["all_told"]["count"] for number in scenarios.TINY.fanout] == [2, 2]


def test_a_burst_of_submissions_is_taken_in_whole(tmp_path: Path) -> None:
    figures, targets = scenarios.burst(scenarios.TINY, tmp_path)
    assert not wrong(targets), figures
    assert (figures["lost"], figures["errors"]) == (0, {})
    assert figures["answered"]["count"] == scenarios.TINY.burst


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert summarize([0.004, 0.001])["p50_ms"] == 1.0

"""The cases, in the order in which they are run and shown."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.suite.bench import Bench
from benchmarks.suite.cases import samples, startup, turnaround
from benchmarks.suite.figures import CaseResult

CASES: dict[str, Callable[[Bench], CaseResult]] = {
    "turnaround": turnaround.run,
    "samples": samples.run,
    "startup": startup.run,
}

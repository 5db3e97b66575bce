"""The cases, in the order in which they are run and shown."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.suite.bench import Bench
from benchmarks.suite.cases import latency, resume, samples, scaling, scoring, startup, training_run, turnaround
from benchmarks.suite.figures import CaseResult

CASES: dict[str, Callable[[Bench], CaseResult]] = {
    "turnaround": turnaround.run,
    "training_run": training_run.run,
    "samples": samples.run,
    "scaling": scaling.run,
    "latency": latency.run,
    "startup": startup.run,
    "resume": resume.run,
    "scoring": scoring.run,
}

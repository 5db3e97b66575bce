"""Processor time of what the service does most often, against committed figures: a check for grave regressions.

* ``requests``: building the requests of 300 digits, images decoded, as a job's generation stage does;
* ``scoring``: scoring their answers and aggregating the task;
* ``events``: 300 events of a job into a journal on SQLite, and from there to 20 watchers, whose messages are encoded
  and thrown away.

Machines differ, so every figure is in units of a loop of plain Python, which is timed beside it; the best of many
rounds, as other processes only ever make a round slower. A figure above ``--margin`` times the committed one fails.

    python benchmarks/hot_paths.py --check benchmarks/results/hot_paths.json
    python benchmarks/hot_paths.py --output benchmarks/results/hot_paths.json
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.run.log import AnswerKey
from lmms_eval_grpc.engine.run.requests import OpenRequests
from lmms_eval_grpc.engine.scoring.aggregate import ScoredSample, aggregate_task
from lmms_eval_grpc.engine.scoring.process import score_sample
from lmms_eval_grpc.engine.tasks.load import load
from lmms_eval_grpc.engine.tasks.task import Task
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler.journal import Journal
from lmms_eval_grpc.server.watch import serialize, watch_job
from lmms_eval_grpc.store.sqlite import SqliteStore
from lmms_eval_grpc.v1.evaluation_service_pb2 import WatchJobRequest
from tests.jobs.examples import progress, result, submitted

SAMPLES = 300
EVENTS, WATCHERS = 300, 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--check", type=Path, help="JSON file with the figures to compare with")
    parser.add_argument("--margin", type=float, default=2.0, help="how much more is a failure (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    committed = None if arguments.check is None else json.loads(arguments.check.read_text())["units"]
    figures = measure(arguments.rounds)
    print(json.dumps(figures, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")
    if committed is None:
        return 0
    slow = find_regressions(figures["units"], committed, arguments.margin)
    for line in slow:
        print(line, file=sys.stderr)
    return 1 if slow else 0


def find_regressions(found: dict[str, float], committed: dict[str, float], margin: float) -> list[str]:
    """A line for each path that takes more than ``margin`` times the committed figure, or that has none."""
    lines = []
    for name, units in found.items():
        before = committed.get(name)
        if before is None:
            lines.append(f"{name}: no committed figure; write them anew with --output")
        elif units > margin * before:
            lines.append(
                f"{name}: {units:.2f} units of processor time, {units / before:.1f} times the committed {before:.2f};"
                f" profile it, or commit new figures where the work itself has grown"
            )
    return lines


def measure(rounds: int) -> dict[str, Any]:
    (task,) = load(EvaluationConfig(model="idefics3", tasks=("handwritten_digits",), limit=SAMPLES)).tasks
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Callable[[], object]] = {
            "requests": lambda: build_requests(task),
            "scoring": lambda: score(task),
            "events": lambda: asyncio.run(publish(Path(tempfile.mkdtemp(dir=folder)))),
        }
        best = dict.fromkeys(("unit", *paths), math.inf)
        for _ in range(rounds):
            for name, call in {"unit": plain_python, **paths}.items():
                best[name] = min(best[name], processor_time(call))
    unit = best.pop("unit")
    return {
        "what": f"{SAMPLES} samples; {EVENTS} events to {WATCHERS} watchers; the unit is a loop of plain Python",
        "units": {name: round(seconds / unit, 3) for name, seconds in best.items()},
        "milliseconds": {name: round(seconds * 1e3, 3) for name, seconds in {"unit": unit, **best}.items()},
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("datasets", "pillow", "protobuf")},
    }


def processor_time(call: Callable[[], object]) -> float:
    """Seconds, of all threads of this process."""
    gc.collect()
    began = time.process_time()
    call()
    return time.process_time() - began


def plain_python() -> int:
    """About as much of calls, attributes, dictionaries and strings as the paths themselves are."""
    counted: dict[str, int] = {}
    for number in range(20_000):
        word = f"{number % 97}-{number & 7}"
        counted[word] = counted.get(word, 0) + len(word.partition("-")[0])
    return sum(counted.values())


def build_requests(task: Task) -> None:
    keys = [AnswerKey(task.identity, doc_id, 0) for doc_id in task.doc_ids(SAMPLES)]
    requests: OpenRequests[Any] = OpenRequests(task, keys, threading.Lock(), {})
    assert sum(len(request.messages) for request in requests) == SAMPLES


def score(task: Task) -> None:
    scored = [
        ScoredSample(doc_id, score_sample(task, doc_id, [f" {doc_id % 10}."])) for doc_id in task.doc_ids(SAMPLES)
    ]
    assert aggregate_task(task, scored, SAMPLES, 0, 1.0).metrics


class Sink:
    """The writing side of a watcher's call: encodes messages as a connection would."""

    def __init__(self) -> None:
        self.messages = 0

    async def write(self, message: Any) -> None:
        assert serialize(message)
        self.messages += 1


async def publish(folder: Path) -> None:
    store = SqliteStore(folder / "jobs.sqlite3")
    await store.open()
    try:
        journal = Journal(store)
        job = await journal.create(submitted(1))
        await journal.enter(job.job_id, JobState.RUNNING)
        request = WatchJobRequest(job_id=job.job_id, after_sequence=0)
        sinks = [Sink() for _ in range(WATCHERS)]
        nobody: Any = None  # only snapshots ask the scheduler
        watchers = [asyncio.create_task(watch_job(request, _context(sink), journal, nobody)) for sink in sinks]
        for number in range(EVENTS):
            await journal.record(job.job_id, progress(number, EVENTS))
        await journal.enter(job.job_id, JobState.COMPLETED, result=result())
        await asyncio.gather(*watchers)
    finally:
        await store.close()
    # Nobody falls so far behind here that progress is superseded before it is seen.
    assert all(sink.messages >= EVENTS for sink in sinks), [sink.messages for sink in sinks]


def _context(sink: Sink) -> Any:
    return sink


if __name__ == "__main__":
    sys.exit(main())

"""How long single calls take, and when a client hears of what happened."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from benchmarks.suite import ours, theirs
from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import OURS, THEIRS, CaseResult, Series, figure, interleave, ratio
from benchmarks.suite.inputs import MODEL, REFERENCE, ROOT, TASK
from benchmarks.suite.processes import environment

CALLS = 40
"""Calls of each kind and round, one after another; their median is the round's value."""

JOBS_WATCHED = 10
SMALL = "both answer from memory, and a call of gRPC costs in Python about what one of HTTP does"
HEARD = "a client with default settings hears of a job's end"

_CLIENT = """
import json, sys, time
from {package} import EvalClient
client = EvalClient(sys.argv[1])
job = client.evaluate(**json.loads(sys.argv[2]))
done = client.wait_for_job(job["job_id"], verbose=False)
print(json.dumps([time.time(), done["completed_at"]]))
"""


def run(bench: Bench) -> CaseResult:
    """Calls of an idle server, then jobs that are followed to their end."""
    submit, get, listing = (Series(OURS, name, "ms") for name in ("submit, durable", "one job", "queue status"))
    their_submit, their_get, their_listing = (
        Series(THEIRS, name, "ms") for name in ("submit, in memory", "one job", "queue status")
    )
    heard = Series(OURS, "state change reaches a watcher", "ms")
    first = Series(OURS, "first progress event after the submission", "ms")
    end = Series(OURS, "end of a job is noticed by a client in wait_for_job", "ms")
    their_end = Series(THEIRS, "end of a job is noticed by a client in wait_for_job, which polls", "ms")
    folder = bench.new_folder()
    with (
        ours.server(bench.inputs, folder / "ours") as server,
        theirs.server(bench.inputs, folder) as their_server,
        ours.server(bench.inputs, folder / "working") as working,
    ):
        server.wait_warm()
        job_id = server.submit([TASK], limit=1)
        server.wait(job_id)
        server.client.pause_queue("benchmark")

        def their_submission() -> str:
            # Its jobs start at once, and nothing else is to run meanwhile.
            began = time.perf_counter()
            job = their_server.submit([TASK], limit=1)
            their_submit.values.append(1000 * (time.perf_counter() - began))
            their_server.wait(job)
            return job

        their_job = [their_submission() for _ in range(bench.rounds())][-1]
        interleave(
            bench.rounds(),
            [
                (get, lambda: _median(lambda: server.client.get(job_id))),
                (their_get, lambda: _median(lambda: their_server.ask(f"/jobs/{their_job}"))),
                (listing, lambda: _median(server.client.get_queue_status)),
                (their_listing, lambda: _median(lambda: their_server.ask("/queue"))),
            ],
        )
        # Last of all: both queues were empty until now.
        interleave(bench.rounds(), [(submit, lambda: _median(lambda: server.submit([TASK], limit=1)))])
        # The first server's queue is paused for good.
        working.wait_warm()
        working.wait(working.submit([TASK], limit=1))
        runs = [(end, lambda: _followed(bench, working)), (their_end, lambda: _followed(bench, their_server))]
        interleave(bench.rounds(), runs)
        interleave(JOBS_WATCHED, [(heard, lambda: _watch(working, first))])
    return CaseResult(
        "latency",
        "Latency of the service",
        f"Single calls of an otherwise idle server, one after another: a value is the median of {CALLS} (lmms-eval's"
        " submissions: of one, since each starts a job at once). Ours go over gRPC and a submission is on disk when it"
        " is answered; lmms-eval's go over HTTP and are in memory only. A state change is timed from the server's own"
        " stamp of the event to its arrival at a watcher; the end of a job of 8 samples from the server's stamp to the"
        " return of wait_for_job, with the defaults of each system's client, in a process of its own.",
        [submit, their_submit, get, their_get, listing, their_listing, heard, first, end, their_end],
        [
            figure(
                "state change to watcher",
                heard,
                at_most=10,
                headline="a change of a job's state reaches a watcher",
                why="an event is told once it is committed to the disk",
            ),
            ratio("a client hears of a job's end: lmms-eval's, which polls / ours", their_end, end, headline=HEARD),
            ratio("one job: lmms-eval / ours", their_get, get, why=SMALL),
            ratio("queue status: lmms-eval / ours", their_listing, listing, why=SMALL),
            ratio(
                "submit: lmms-eval, in memory / ours, durable",
                *(their_submit, submit),
                headline="submission; ours is on disk when it is answered",
                why="ours checks the request against the task index and the checkpoint, and waits for the disk;"
                " lmms-eval's is kept in memory, unchecked, and lost with its process",
            ),
        ],
    )


def _median(call: Callable[[], Any], calls: int = CALLS) -> tuple[float, None]:
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    return sorted(taken)[calls // 2], None


def _watch(server: ours.Server, first: Series) -> tuple[float, None]:
    """Milliseconds from a state change to the watcher, the median over a job's."""
    delays: list[float] = []
    progress: list[float] = []
    began = time.time()
    job_id = server.submit([TASK], limit=8)
    for event in server.client.watch_job(job_id):
        now = time.time()
        if event.HasField("state_change"):
            delays.append(1000 * (now - event.event_time.ToNanoseconds() / 1e9))
        elif event.HasField("progress"):
            progress.append(1000 * (now - began))
    first.values.append(min(progress))
    return sorted(delays[1:])[len(delays[1:]) // 2], None  # the first happened before anybody watched


def _followed(bench: Bench, server: ours.Server | theirs.Server) -> tuple[float, None]:
    """Milliseconds from a job's end, by the server's stamp, to the return of its client's wait_for_job."""
    body = {"model": MODEL, "model_args": bench.inputs.model_args, "tasks": [TASK], "limit": 8}
    folder = bench.new_folder()
    if isinstance(server, ours.Server):
        python, package, address = sys.executable, "lmms_eval_grpc", server.address
        variables = environment(folder, PYTHONPATH=str(ROOT))
    else:
        python, package, address = str(REFERENCE), "lmms_eval.entrypoints", f"http://127.0.0.1:{server.port}"
        variables = environment(folder)
        body["model_args"] = {**bench.inputs.model_args, "device": "cpu"}
    done = subprocess.run(
        [python, "-c", _CLIENT.format(package=package), address, json.dumps(body)],
        check=True,
        stdout=subprocess.PIPE,
        cwd=folder,
        env=variables,
        text=True,
    )
    returned, completed = json.loads(done.stdout.splitlines()[-1])
    return 1000 * (returned - datetime.fromisoformat(completed).timestamp()), None

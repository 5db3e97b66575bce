"""What is done again after ``kill -9`` in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.suite import ours, theirs
from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import OURS, THEIRS, CaseResult, Series, figure, ratio
from benchmarks.suite.inputs import ROOT, SAMPLES, TASK
from benchmarks.suite.outcome import Outcome, agree, in_folder
from benchmarks.suite.processes import Failed, environment, tail, tree

BATCH_SIZE = 8
COUNTING = Path(__file__).parents[1] / "count_answers"


def run(bench: Bench) -> CaseResult:
    """Our server is killed with all below it and started again; lmms-eval's command line with its response cache."""
    again = Series(OURS, "samples answered a second time", "%")
    rest = Series(OURS, "from the second start to the result")
    their_again = Series(THEIRS, "samples answered a second time, with its response cache", "%")
    their_rest = Series(THEIRS, "from the second start to the result")
    for _ in range(bench.rounds()):
        repeated, seconds, outcome = _ours(bench)
        again.values.append(repeated)
        rest.values.append(seconds)
        repeated, seconds, their_outcome = _theirs(bench)
        their_again.values.append(repeated)
        their_rest.values.append(seconds)
        same = agree(outcome, their_outcome, SAMPLES)
        print(f"  repeated: ours {again.values[-1]:.1f} %, lmms-eval {their_again.values[-1]:.1f} %", flush=True)
    return CaseResult(
        "resume",
        "Resume after kill -9",
        f"{SAMPLES} samples at batch size {BATCH_SIZE}; everything is killed once half of them are answered, and"
        " started again. Ours is the server with its job; lmms-eval's own server forgets its jobs, so it is the command"
        " line with --use_cache, told to do the same again. What the model answered is counted in its own generate, in"
        " both alike: what it answers beyond the number of samples is counted as answered again, as a share of what it"
        " had answered before the kill.",
        [again, rest, their_again, their_rest],
        [
            figure(
                "ours answers again",
                again,
                headline="answered a second time after `kill -9` at half",
                other=their_again,
                why="a batch that was answered but not yet on disk is answered again",
            ),
            ratio("from the second start to the result: lmms-eval / ours", their_rest, rest),
        ],
        [same],
    )


def _ours(bench: Bench) -> tuple[float, float, Outcome]:
    folder = bench.new_folder()
    counter = folder / "answered"
    variables = {"PYTHONPATH": f"{COUNTING}{os.pathsep}{ROOT}", "COUNT_ANSWERS": str(counter)}
    with ours.server(bench.inputs, folder, variables=variables) as server:
        server.wait_warm()
        job_id = server.submit([TASK], batch_size=BATCH_SIZE)
        while _lines(counter) < SAMPLES // 2:
            if server.client.get(job_id).HasField("end_time"):
                raise Failed(f"our job ended with {_lines(counter)} samples counted")
            time.sleep(0.02)
        for process in tree(server.process.pid):
            process.send_signal(signal.SIGKILL)
        server.process.wait()
    before = _lines(counter)
    began = time.perf_counter()
    with ours.server(bench.inputs, folder, variables=variables) as server:
        done = server.wait(job_id)
        seconds = time.perf_counter() - began
        outcome = server.outcome(job_id)
    if done.evaluation_result.task_results[0].samples.scored != SAMPLES:
        raise Failed(f"after the kill ours scored {done.evaluation_result.task_results[0].samples}")
    return _repeated(counter, before), seconds, outcome


def _repeated(counter: Path, before: int) -> float:
    """Percent of what had been answered ``before``: what was answered beyond every sample once."""
    answered = _lines(counter)
    if answered < SAMPLES:
        raise Failed(f"{answered} answers were counted, which are fewer than {SAMPLES}")
    return 100 * (answered - SAMPLES) / before


def _theirs(bench: Bench) -> tuple[float, float, Outcome]:
    folder = bench.new_folder()
    counter = folder / "answered"
    more = ("--use_cache", str(folder / "cache"))
    command = theirs.command(bench.inputs, folder, [TASK], batch_size=BATCH_SIZE, more=more)
    variables = environment(folder, PYTHONPATH=str(COUNTING), COUNT_ANSWERS=str(counter))
    with (folder / "killed.log").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=output, stderr=output, start_new_session=True
        )
        while _lines(counter) < SAMPLES // 2:
            if process.poll() is not None:
                raise Failed(tail(folder / "killed.log"))
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = _lines(counter)
    began = time.perf_counter()
    with (folder / "again.log").open("w") as output:
        subprocess.run(command, cwd=folder, env=variables, stdout=output, stderr=output, check=True)
    seconds = time.perf_counter() - began
    return _repeated(counter, before), seconds, in_folder(folder / "output")


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0

"""How long it takes until something answers: servers, imports, the list of tasks, the command line's help."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.suite import ours, theirs
from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import OURS, THEIRS, CaseResult, Comparison, Series, interleave, ratio
from benchmarks.suite.inputs import REFERENCE, ROOT
from benchmarks.suite.processes import environment
from benchmarks.suite.processes import run as run_program

SERVER, CLIENT, HELP = "server answers", "import of the client", "help of the evaluation command"
COLD, WARM = "task list on the command line, first time", "task list on the command line, again"
LISTING = "task list of the running server, again"


def run(bench: Bench) -> CaseResult:
    """Whole processes, in turn."""
    names = (SERVER, CLIENT, HELP, COLD, WARM, LISTING)
    our = {name: Series(OURS, name) for name in names}
    their = {name: Series(THEIRS, name) for name in names}
    package = theirs.package()
    folder = bench.new_folder()
    cache = folder / "cache"
    mine = environment(folder, PYTHONPATH=str(ROOT), XDG_CACHE_HOME=str(cache))
    other = environment(folder)

    def program(*words: str | Path) -> Callable[[], tuple[float, float]]:
        return lambda: run_program(words, folder, mine if words[0] == sys.executable else other)

    listed = (sys.executable, "-m", "lmms_eval_grpc", "tasks", "--local", "--include_path", package / "tasks")
    their_list = program(REFERENCE, "-m", "lmms_eval", "--tasks", "list")

    def cold_list() -> tuple[float, float]:
        shutil.rmtree(cache, ignore_errors=True)
        return program(*listed)()

    interleave(
        bench.rounds(5, 1),
        [
            (our[SERVER], lambda: _start(lambda: ours.server(bench.inputs, bench.new_folder()))),
            (their[SERVER], lambda: _start(lambda: theirs.server(bench.inputs, bench.new_folder()))),
            (our[CLIENT], program(sys.executable, "-c", "from lmms_eval_grpc import EvalClient")),
            (their[CLIENT], program(REFERENCE, "-c", "from lmms_eval.entrypoints import EvalClient")),
            (our[HELP], program(sys.executable, "-m", "lmms_eval_grpc", "eval", "--help")),
            (their[HELP], program(REFERENCE, "-m", "lmms_eval", "--help")),
            (our[COLD], cold_list),
            (their[COLD], their_list),
        ],
    )
    interleave(bench.rounds(5, 1), [(our[WARM], program(*listed)), (their[WARM], their_list)])
    flags = ("--include-path", str(package / "tasks"))
    with (
        ours.server(bench.inputs, bench.new_folder(), *flags) as server,
        theirs.server(bench.inputs, bench.new_folder()) as their_server,
    ):
        number = len(server.client.list_tasks())
        their_server.ask("/tasks")
        asked = [
            (our[LISTING], lambda: _timed(server.client.list_tasks)),
            (their[LISTING], lambda: _timed(lambda: their_server.ask("/tasks"))),
        ]
        interleave(bench.rounds(5, 2), asked)
    ready, listing = our[SERVER], our[LISTING]
    return CaseResult(
        "startup",
        "Start-up",
        "Whole processes from their start. A server has started when it answers its first call. The list has the"
        f" {number} names that a server with lmms-eval 0.7.3's own task files has; ours keeps an index of them between"
        " two starts, which is removed before a first time.",
        [series for name in names for series in (our[name], their[name])],
        [
            Comparison(
                "our server answers after", ready.median, (min(ready.values), max(ready.values)), "s", at_most=1
            ),
            Comparison(
                f"our running server lists {number} tasks in",
                1000 * listing.median,
                (1000 * min(listing.values), 1000 * max(listing.values)),
                "ms",
                at_most=10,
            ),
            *(ratio(f"{name}: lmms-eval / ours", their[name], our[name]) for name in names),
        ],
    )


def _timed(call: Callable[[], Any]) -> tuple[float, None]:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began, None


def _start(server: Callable[[], Any]) -> tuple[float, None]:
    began = time.perf_counter()
    with server():
        return time.perf_counter() - began, None

"""How long it takes until something answers: servers, imports, the list of tasks, the command line's help."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.suite import ours, theirs
from benchmarks.suite.bench import Bench
from benchmarks.suite.figures import OURS, THEIRS, CaseResult, Series, figure, interleave, ratio
from benchmarks.suite.inputs import REFERENCE, ROOT
from benchmarks.suite.processes import Failed, environment
from benchmarks.suite.processes import run as run_program

SERVER, CLIENT, HELP = "server answers", "import of the client", "help of the evaluation command"
COLD, WARM = "task list on the command line, first time", "task list on the command line, again"
FIRST_LIST, LISTING = "task list of the running server, first time", "task list of the running server, again"
IN_MS = (FIRST_LIST, LISTING)
WHY = {SERVER: "ours opens its database, reads its index of tasks and finds the devices before it answers"}
IN_A_ROW = 20
"""Lists that are asked of our server one after another; their median is the round's value."""


def run(bench: Bench) -> CaseResult:
    """Whole processes, in turn."""
    names = (SERVER, CLIENT, HELP, COLD, WARM, FIRST_LIST, LISTING)
    our = {name: Series(OURS, name, "ms" if name in IN_MS else "s") for name in names}
    their = {name: Series(THEIRS, name, "ms" if name in IN_MS else "s") for name in names}
    after_pause = Series(OURS, "task list of the running server, a second after the last one", "ms")
    package = theirs.package()
    folder = bench.new_folder()
    mine = environment(folder, PYTHONPATH=str(ROOT))
    other = environment(folder)

    def program(*words: str | Path) -> Callable[[], tuple[float, float]]:
        return lambda: run_program(words, folder, mine if words[0] == sys.executable else other)

    listed = (sys.executable, "-m", "lmms_eval_grpc", "tasks", "--local", "--include_path", package / "tasks")
    their_list = program(REFERENCE, "-m", "lmms_eval", "tasks")

    def cold_list() -> tuple[float, float]:
        shutil.rmtree(mine["XDG_CACHE_HOME"], ignore_errors=True)
        return program(*listed)()

    interleave(
        bench.rounds(),
        [
            (our[SERVER], lambda: _start(lambda: ours.server(bench.inputs, bench.new_folder()))),
            (their[SERVER], lambda: _start(lambda: theirs.server(bench.inputs, bench.new_folder()))),
            (our[CLIENT], program(sys.executable, "-c", "from lmms_eval_grpc import EvalClient")),
            (their[CLIENT], program(REFERENCE, "-c", "from lmms_eval.entrypoints import EvalClient")),
            (our[HELP], program(sys.executable, "-m", "lmms_eval_grpc", "eval", "--help")),
            (their[HELP], program(REFERENCE, "-m", "lmms_eval", "eval", "--help")),
            (our[COLD], cold_list),
            (our[WARM], program(*listed)),
            (their[COLD], their_list),
        ],
    )
    their[WARM].values, their[WARM].cpu = their[COLD].values, their[COLD].cpu
    flags = ("--include-path", str(package / "tasks"))
    with (
        ours.server(bench.inputs, bench.new_folder(), *flags) as server,
        theirs.server(bench.inputs, bench.new_folder()) as their_server,
    ):
        first: dict[str, list[str]] = {}

        def ask(system: str, call: Callable[[], list[str]]) -> tuple[float, None]:
            began = time.perf_counter()
            first[system] = call()
            return 1000 * (time.perf_counter() - began), None

        their_tasks = lambda: their_server.ask("/tasks")["tasks"]  # noqa: E731
        interleave(
            1,
            [
                (our[FIRST_LIST], lambda: ask(OURS, server.client.list_tasks)),
                (their[FIRST_LIST], lambda: ask(THEIRS, their_tasks)),
            ],
        )
        asked = [
            (our[LISTING], lambda: _median(server.client.list_tasks)),
            (after_pause, lambda: _after_pause(server.client.list_tasks)),
            (their[LISTING], lambda: ask(THEIRS, their_tasks)),
        ]
        interleave(bench.rounds(), asked)
    number, missing = len(first[OURS]), set(first[THEIRS]) - set(first[OURS])
    if missing:
        raise Failed(f"our list lacks {len(missing)} of lmms-eval's names, such as {sorted(missing)[:3]}")
    return CaseResult(
        "startup",
        "Start-up",
        "Whole processes from their start. A server has started when it answers its first call. The list has the"
        f" {number} names that a server with lmms-eval 0.7.3's own task files has; ours keeps an index of them between"
        " two starts, which is removed before a first time; lmms-eval keeps none, and its one list stands in both rows."
        " Our servers too start without an index: the one that lists tasks makes it as it starts or for its first list."
        " Everything else, such as compiled modules of Python, is warm."
        f" Again, of the running server: our value is the median of {IN_A_ROW} calls in a row. A second after the last"
        " one our server looks whether a task file has changed since, which lmms-eval's does each time by reading all.",
        [*(series for name in names for series in (our[name], their[name])), after_pause],
        [
            figure("our server answers after", our[SERVER], at_most=1, headline="server answers, from its start"),
            figure(
                f"our running server lists {number:,} tasks in",
                our[LISTING],
                at_most=10,
                headline=f"list of {number:,} tasks by a running server, asked again at once",
                other=their[LISTING],
                why="the entries are copied into one message of 380 KB, and out of it into Python",
            ),
            figure(
                "the same a second after the last list",
                after_pause,
                headline="the same a second after the last list",
                other=their[LISTING],
                why="the server looks whether a task file has changed",
            ),
            *(
                ratio(
                    f"{name}: lmms-eval / ours",
                    *(their[name], our[name]),
                    why=WHY.get(name, ""),
                )
                for name in names
            ),
        ],
    )


def _median(call: Callable[[], Any]) -> tuple[float, None]:
    taken = []
    for _ in range(IN_A_ROW):
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken), None


def _after_pause(call: Callable[[], Any]) -> tuple[float, None]:
    """When the server looks at its folders again."""
    time.sleep(1.1)
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began), None


def _start(server: Callable[[], Any]) -> tuple[float, float]:
    began = time.perf_counter()
    with server() as started:
        return time.perf_counter() - began, started.cpu()

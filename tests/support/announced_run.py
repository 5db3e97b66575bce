"""Evaluates in a process of its own and announces every call of the model, so that a test can kill it at any of them.

Arguments: the configuration as JSON, the run's folder, ``step`` or ``free``. Prints ``call N`` before each call, of N
requests; with ``step`` it then waits for a line. At the end prints ``done`` and the results as JSON. The model
``hashing`` is :class:`tests.support.backends.HashingBackend`; any other is the real one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Attempt:
    """What one process did."""

    calls: list[int] = field(default_factory=list)
    """Requests of each call that was begun."""
    results: Mapping[str, Any] | None = None
    """The results by task and group; None: it was killed before the end."""

    @property
    def requests(self) -> int:
        return sum(self.calls)


def attempt(
    settings: Mapping[str, Any], run_dir: Path, *, kill: Callable[[Attempt], bool] | None = None, step: bool = True
) -> Attempt:
    """Runs a process to its end, or until ``kill`` says so at a call: then the call is not answered with ``step``, and
    may or may not be without. The process is killed by signal 9."""
    command = [sys.executable, __file__, json.dumps(settings), str(run_dir), "step" if step else "free"]
    seen = Attempt()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            word, _, rest = line.partition(" ")
            if word == "call":
                seen.calls.append(int(rest))
                if kill is not None and kill(seen):
                    process.send_signal(signal.SIGKILL)
                    break
                if step:
                    process.stdin.write("\n")
                    process.stdin.flush()
            elif word == "done":
                seen.results = json.loads(rest)
        assert process.wait() == (0 if seen.results is not None else -signal.SIGKILL)
    return seen


def _main(settings: dict[str, Any], run_dir: Path, step: bool) -> None:
    from lmms_eval_grpc.engine.api import EvaluationConfig
    from lmms_eval_grpc.engine.run.evaluate import evaluate, load_backend
    from tests.support.backends import HashingBackend
    from tests.support.reporters import Recorder

    def announce(requests: int) -> None:
        print("call", requests, flush=True)
        if step:
            sys.stdin.readline()

    settings["tasks"] = tuple(settings["tasks"])
    settings["include_paths"] = tuple(map(Path, settings.get("include_paths", ())))
    config = EvaluationConfig(**settings)
    backend: Any
    if config.model == "hashing":
        backend = HashingBackend(batch_size=config.batch_size or 4, on_call=announce)
    else:
        import torch

        torch.set_num_threads(1)
        backend = load_backend(config)
        generate = backend.model.generate

        def announced(**inputs: Any) -> Any:
            announce(len(inputs["input_ids"]))
            return generate(**inputs)

        backend.model.generate = announced
    outcome = evaluate(config, run_dir, Recorder(), backend=backend)
    print("done", json.dumps(outcome.results_document["results"]), flush=True)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "step")

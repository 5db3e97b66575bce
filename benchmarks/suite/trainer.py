"""A trainer that submits checkpoints as it goes; runs as a process of its own.

    python -m benchmarks.suite.trainer ours|theirs|nobody ADDRESS CHECKPOINTS STEPS TASK,TASK OPTIONS

Takes ``STEPS`` steps of a small network before each checkpoint, submits it, and goes on at once. In the end it waits
for all results, and prints JSON: milliseconds of a step, the moment of the last submission, and that of the last
result, in seconds of the system's monotonic clock, and the jobs. OPTIONS, as JSON, are more of each submission.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.suite.inputs import Inputs


def main() -> None:
    system, address, folder, steps, tasks, options = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoints = sorted(Path(folder).iterdir())
    server = connect(system, address, Inputs(Path(folder), checkpoints[0]))
    network = torch.nn.Sequential(torch.nn.Linear(512, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 512))
    optimizer = torch.optim.AdamW(network.parameters())
    batch = torch.randn(128, 512)
    spent, jobs, submitted = [], [], 0.0
    for checkpoint in checkpoints:
        for _ in range(int(steps)):
            began = time.perf_counter()
            optimizer.zero_grad()
            (network(batch) - batch).square().mean().backward()
            optimizer.step()
            spent.append(time.perf_counter() - began)
        if server is not None:
            began = time.perf_counter()
            jobs.append(server.submit(tasks.split(","), checkpoint, **json.loads(options)))
            submitted = time.monotonic()
            spent[-1] += time.perf_counter() - began
    for job_id in jobs:
        server.wait(job_id)
    finished = time.monotonic()
    step_ms = 1000 * sum(spent) / len(spent)
    print(json.dumps({"step_ms": step_ms, "submitted": submitted, "finished": finished, "jobs": jobs}))


def connect(system: str, address: str, inputs: Inputs) -> Any:
    from benchmarks.suite import ours, theirs

    if system == "ours":
        return ours.Server(None, address, inputs)
    return theirs.Server(None, int(address), inputs) if system == "theirs" else None


if __name__ == "__main__":
    main()

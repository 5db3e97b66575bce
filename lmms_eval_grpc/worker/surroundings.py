"""What a worker's process is to the job that it runs: its log, its environment, its folder, its random numbers."""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob


def start_log() -> None:
    """Has what is logged written to standard output, in the worker's own format."""
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.captureWarnings(True)


def flush_output() -> None:
    """Writes out what is still in Python's buffers."""
    sys.stdout.flush()
    sys.stderr.flush()


def redirect_output(log: int) -> None:
    """Makes the open file ``log``, which is closed, the standard output and error."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a job finds; taken before the first job, so that a later one finds the same."""

    environment: dict[str, str]
    folder: str
    search_path: list[str]

    @classmethod
    def take(cls) -> Surroundings:
        return cls(dict(os.environ), os.getcwd(), list(sys.path))  # noqa: PTH109 - a string is wanted

    def restore_for(self, job: RunJob) -> None:
        """Undoes what an earlier job may have done to the process, and enters the log and environment of ``job``.

        Modules stay imported: which of a task's files have changed is for the engine to notice.
        """
        import numpy
        import torch

        flush_output()
        Path(job.log_path).parent.mkdir(parents=True, exist_ok=True)
        redirect_output(os.open(job.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))
        start_log()
        os.environ.clear()
        os.environ.update(self.environment)
        os.environ.update(job.environment)
        tempfile.tempdir = None  # found anew, in the new environment
        os.chdir(self.folder)
        sys.path[:] = self.search_path
        # Where a job's own seed is None its numbers are to be new ones, as in a new process.
        random.seed()
        numpy.random.seed()
        torch.seed()
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)

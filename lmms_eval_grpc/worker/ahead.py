"""What of a job is done before there is a device for it, while the job before it computes."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobSpec
from lmms_eval_grpc.worker import processes, translate
from lmms_eval_grpc.worker.hiding import hide_in_output, secrets_of
from lmms_eval_grpc.worker.model import WorkerModel
from lmms_eval_grpc.worker.path_rules import PathRules
from lmms_eval_grpc.worker.request_paths import refused_paths
from lmms_eval_grpc.worker.surroundings import flush_output, start_log
from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob

if TYPE_CHECKING:
    from lmms_eval_grpc.engine.run.preparation import Preparation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that lacks nothing but its device."""

    preparation: Preparation
    device: str
    """The torch device that it was prepared for."""


def prepare(job: RunJob, model: WorkerModel) -> Prepared | None:
    """Reads tasks, data and processor; None: that failed, and a worker that starts with the job has to say how.

    Nothing here may touch a GPU: another job has it.
    """
    began = time.monotonic()
    try:
        identify(Path(job.job_dir))
        import torch  # late, as in main

        from lmms_eval_grpc.engine.device import forbid_accelerators
        from lmms_eval_grpc.engine.run import preparation

        if job.torch_threads:
            torch.set_num_threads(job.torch_threads)
        spec = codec.decode(EvaluationSpec, job.spec_json)
        hide_in_output(secrets_of(spec))
        start_log()
        config = read_config(job, spec)
        with forbid_accelerators("this job is being prepared and has no GPU yet"):
            ready = preparation.prepare(config)
            model.prepare(config)
    except BaseException as error:
        logger.info("preparing ahead failed, the job is prepared when it starts: %s: %s", type(error).__name__, error)
        flush_output()
        return None
    logger.info("prepared in %.3f s; waiting for a device", time.monotonic() - began)
    return Prepared(ready, config.device)


def read_config(job: RunJob, spec: EvaluationSpec) -> EvaluationConfig:
    """What the engine is to run.

    Raises:
        EvaluationError: ``PATH_NOT_ALLOWED``: a path leads, by now, to where it may not.
    """
    check_paths(job, spec)
    return translate.to_config(spec, include_paths=tuple(map(Path, job.include_paths)), device=job.device)


def check_paths(job: RunJob, spec: JobSpec) -> None:
    """Whether the paths of a job still lead to where requests may go: links may have been set since it was accepted.

    Raises:
        EvaluationError: ``PATH_NOT_ALLOWED``.
    """
    rules = PathRules.of_environment(os.environ)
    if rules == PathRules():
        return
    jobs_dir = Path(job.job_dir).parent
    rules = rules.guarding(jobs_dir, jobs_dir)
    problems = [f"{field}: {problem}" for field, problem in refused_paths(spec, rules, in_use=True)]
    if problems:
        raise EvaluationError("PATH_NOT_ALLOWED", "; ".join(problems))


def identify(job_dir: Path) -> None:
    """Writes down, in the job's folder, which process this is."""
    identity = processes.identify(os.getpid(), os.environ.get(processes.MARKER, ""))
    if identity is not None:
        processes.write_identity(job_dir, identity)

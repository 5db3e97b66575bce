"""One job, start to end, in a process of its own."""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.replicas.nursery import stand_by
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.results import JobError
from lmms_eval_grpc.jobs.spec import EvaluationSpec, MergeSpec
from lmms_eval_grpc.worker import merging, processes, translate
from lmms_eval_grpc.worker.connection import ServerConnection
from lmms_eval_grpc.worker.reporter import JobReporter
from lmms_eval_grpc.worker.v1.worker_pb2 import RunCancelled, RunJob, WorkerEvent, WorkerStarted

logger = logging.getLogger(__name__)


def run(sock: socket.socket) -> None:
    """Takes one job from ``sock``, runs it and reports on it. Whatever happens to the job is reported, not raised.

    The caller ends the process with ``os._exit`` right after: the interpreter's own way out takes torch two seconds.
    """
    connection = ServerConnection(sock)
    connection.send(WorkerEvent(started=WorkerStarted(pid=os.getpid())))
    job = connection.receive_job()
    _start_log()
    if _wants_processes(job):
        stand_by(sock)  # before there are threads
    logger.info("job %s, attempt %d, process %d", job.job_id, job.attempt, os.getpid())
    reporter = JobReporter(connection.send, lambda: connection.cancelled)
    connection.listen(reporter.flush_due)
    last = run_job(job, reporter)
    sys.stdout.flush()
    sys.stderr.flush()
    reporter.finish(last)


def run_job(job: RunJob, reporter: JobReporter) -> WorkerEvent:
    """Runs ``job`` and returns its worker's last word."""
    try:
        job_dir = Path(job.job_dir)
        _identify(job_dir)
        spec: EvaluationSpec | MergeSpec = codec.decode(EvaluationSpec | MergeSpec, job.spec_json)
        if isinstance(spec, MergeSpec):
            return merging.merge(spec, job, job_dir, reporter)
        return _evaluate(spec, job, job_dir, reporter)
    except EvaluationCancelled:
        logger.info("stopped, as asked; what was answered so far is kept")
        return WorkerEvent(cancelled=RunCancelled())
    except EvaluationError as error:
        logger.error("%s: %s", error.reason, error.message, exc_info=error.__cause__)
        return _failed(translate.to_error(error))
    except BaseException as error:
        # SystemExit too: a task's code that calls sys.exit ends its job, not the report about it.
        logger.exception("the job failed")
        return _failed(translate.to_unexpected_error(error))


def _evaluate(spec: EvaluationSpec, job: RunJob, job_dir: Path, reporter: JobReporter) -> WorkerEvent:
    # Imported here, because a worker without a warm template pays seconds for it and has said by now that it runs.
    import torch

    from lmms_eval_grpc.engine.run.evaluate import evaluate

    if job.torch_threads:
        torch.set_num_threads(job.torch_threads)
    config = translate.to_config(spec, include_paths=tuple(map(Path, job.include_paths)), device=job.device)
    logger.info("model %s on %s, tasks: %s", config.model, config.device, ", ".join(config.tasks))
    with merging.no_leftovers(spec, job_dir):
        outcome = evaluate(config, job_dir, reporter)
    result = translate.to_result(outcome)
    logger.info("completed; results: %s", result.results_path or "not written")
    return WorkerEvent(completed_json=translate.to_json(result))


def _wants_processes(job: RunJob) -> bool:
    """Whether the model will run in processes of its own."""
    try:
        spec: EvaluationSpec | MergeSpec = codec.decode(EvaluationSpec | MergeSpec, job.spec_json)
    except Exception:  # whoever runs the job will say so
        return False
    if not isinstance(spec, EvaluationSpec):
        return False
    entry = registry.resolve(spec.model)
    return spec.num_gpus > 1 or (entry is not None and entry.own_process)


def _identify(job_dir: Path) -> None:
    identity = processes.identify(os.getpid(), os.environ.get(processes.MARKER, ""))
    if identity is not None:
        processes.write_identity(job_dir, identity)


def _failed(error: JobError) -> WorkerEvent:
    return WorkerEvent(failed_json=translate.to_json(error))


def _start_log() -> None:
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.captureWarnings(True)

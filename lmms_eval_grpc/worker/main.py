"""One job, start to end, in a process of its own; or several, one after the other, on one loaded model."""

from __future__ import annotations

import logging
import os
import socket
import time
from functools import partial
from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.protocol import CannotReuse
from lmms_eval_grpc.engine.models.replicas.nursery import stand_by
from lmms_eval_grpc.jobs import codec
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.jobs.spec import EvaluationSpec, MergeSpec
from lmms_eval_grpc.worker import merging, translate
from lmms_eval_grpc.worker.ahead import Prepared, identify, prepare, read_config
from lmms_eval_grpc.worker.connection import ServerConnection
from lmms_eval_grpc.worker.frames import FrameError
from lmms_eval_grpc.worker.hiding import hide_in_error, hide_in_output, secrets_of
from lmms_eval_grpc.worker.model import WorkerModel
from lmms_eval_grpc.worker.reporter import JobReporter
from lmms_eval_grpc.worker.surroundings import Surroundings, flush_output, start_log
from lmms_eval_grpc.worker.tracking import JobTracking
from lmms_eval_grpc.worker.v1.worker_pb2 import RunAccepted, RunCancelled, RunJob, WorkerEvent, WorkerStarted

logger = logging.getLogger(__name__)


def run(sock: socket.socket) -> None:
    """Takes a job from ``sock``, runs it and reports on it; as many one after the other as the server wants of a worker
    that keeps its model. Whatever happens to a job is reported, not raised.

    The caller ends the process with ``os._exit`` right after: the interpreter's own way out takes torch two seconds.
    """
    connection = ServerConnection(sock)
    connection.send(WorkerEvent(started=WorkerStarted(pid=os.getpid())))
    command = connection.receive_first()
    ahead = command.HasField("prepare")
    job = command.prepare if ahead else command.run
    start_log()
    surroundings = Surroundings.take()
    if _wants_processes(job):
        stand_by(sock)  # before there are threads
    reporter = JobReporter(connection.send, lambda: connection.cancelled)
    connection.listen(lambda: reporter.tick())
    model = WorkerModel()
    prepared = None
    if ahead:
        ready = prepare(job, model)
        if ready is None:
            return
        job = connection.next_run()
        os.environ.update(job.environment)
        connection.send(WorkerEvent(accepted=RunAccepted()))
        prepared = ready if ready.device == job.device else None
    while True:
        logger.info("job %s, attempt %d, process %d", job.job_id, job.attempt, os.getpid())
        last = run_job(job, reporter, model, prepared)
        last.keeps_model = last.HasField("completed_json") and model.rest()
        flush_output()
        finish(reporter, last)
        if not last.keeps_model:
            return
        job, prepared = connection.next_run(), None
        # Before the model becomes this job's: to read the weights of another checkpoint may take longer than a worker
        # may be silent.
        reporter = JobReporter(connection.send, lambda: connection.cancelled)
        if not _take_over(job, model, surroundings):
            return
        connection.send(WorkerEvent(accepted=RunAccepted()))


def finish(reporter: JobReporter, last: WorkerEvent) -> None:
    """Sends the last word, or, where that is too large for any server, that it is."""
    try:
        reporter.finish(last)
    except FrameError as error:
        message = f"the result cannot be told: {error}; ask for fewer tasks in one job. Its results files are written"
        reporter.finish(_failed(JobError(JobErrorCode.EVALUATION, "RESULT_TOO_LARGE", message)))


def run_job(
    job: RunJob, reporter: JobReporter, model: WorkerModel | None = None, prepared: Prepared | None = None
) -> WorkerEvent:
    """Runs ``job`` and returns its worker's last word. ``model`` is left loaded if it is to be kept."""
    secrets: tuple[str, ...] = ()
    try:
        job_dir = Path(job.job_dir)
        identify(job_dir)
        spec: EvaluationSpec | MergeSpec = codec.decode(EvaluationSpec | MergeSpec, job.spec_json)
        secrets = secrets_of(spec)
        hide_in_output(secrets)
        start_log()
        if isinstance(spec, MergeSpec):
            return merging.merge(spec, job, job_dir, reporter)
        return _evaluate(spec, job, job_dir, reporter, model or WorkerModel(), prepared)
    except EvaluationCancelled:
        logger.info("stopped, as asked; what was answered so far is kept")
        return WorkerEvent(cancelled=RunCancelled())
    except EvaluationError as error:
        logger.error("%s: %s", error.reason, error.message, exc_info=error.__cause__)
        return _failed(hide_in_error(translate.to_error(error), secrets))
    except BaseException as error:
        # SystemExit too: a task's code that calls sys.exit ends its job, not the report about it.
        logger.exception("the job failed")
        return _failed(hide_in_error(translate.to_unexpected_error(error), secrets))


def _evaluate(
    spec: EvaluationSpec,
    job: RunJob,
    job_dir: Path,
    reporter: JobReporter,
    model: WorkerModel,
    prepared: Prepared | None,
) -> WorkerEvent:
    # Imported here, because a worker without a warm template pays seconds for it and has said by now that it runs.
    import torch

    from lmms_eval_grpc.engine.run.evaluate import evaluate

    if job.torch_threads:
        torch.set_num_threads(job.torch_threads)
    config = read_config(job, spec)
    logger.info("model %s on %s, tasks: %s", config.model, config.device, ", ".join(config.tasks))
    tracking = JobTracking(spec, job)
    reporter.on_task_result = lambda result: tracking.tell(result.task, result.metrics)
    try:
        outcome = evaluate(
            config,
            job_dir,
            reporter,
            prepared=None if prepared is None else prepared.preparation,
            open_model=partial(model.open, keep=job.keep_model),
        )
        result = translate.to_result(outcome)
        for group in result.group_results:
            tracking.tell(group.group, group.metrics)
    finally:
        tracking.close(reporter.moving, reporter.cancelled)
    logger.info("completed; results: %s", result.results_path or "not written")
    return WorkerEvent(completed_json=translate.to_json(result))


def _take_over(job: RunJob, model: WorkerModel, surroundings: Surroundings) -> bool:
    """Whether the kept model has become that of ``job``; if not, a new worker has to run it."""
    began = time.monotonic()
    try:
        surroundings.restore_for(job)
        spec = codec.decode(EvaluationSpec | MergeSpec, job.spec_json)
        if not isinstance(spec, EvaluationSpec):
            raise CannotReuse("the job evaluates nothing")
        model.become(read_config(job, spec))
    except Exception as error:
        logger.info("the model that is loaded cannot serve this job, a new worker does: %s", error)
        flush_output()
        return False
    logger.info("the model was there already; it became that of this job in %.3f s", time.monotonic() - began)
    return True


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


def _failed(error: JobError) -> WorkerEvent:
    return WorkerEvent(failed_json=translate.to_json(error))

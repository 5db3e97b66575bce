"""The client for ordinary Python code. `aio` is its asyncio twin: the same methods, arguments and results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike
from types import TracebackType
from typing import Any, Self, Unpack

from lmms_eval_grpc.client import dictionaries, requests
from lmms_eval_grpc.client.admin import AdminMethods
from lmms_eval_grpc.client.base import READY_POLL, ClientBase, not_ready, outcome
from lmms_eval_grpc.client.catalog import CatalogMethods
from lmms_eval_grpc.client.credentials import Credentials
from lmms_eval_grpc.client.errors import EvalServiceError, ServerUnavailable
from lmms_eval_grpc.client.narration import make_narrator
from lmms_eval_grpc.client.requests import CheckpointType, EvaluationOptions, State
from lmms_eval_grpc.client.samples import SampleMethods
from lmms_eval_grpc.client.streams import JobWatch, Logs, QueueWatch, Reconnection
from lmms_eval_grpc.client.transport import Transport
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import job_pb2 as messages


class EvalClient(AdminMethods, CatalogMethods, SampleMethods, ClientBase):
    """Client of the evaluation service, with the methods of lmms-eval's client and more.

    Methods that lmms-eval has return its dictionaries; the others return messages of ``lmms_eval_grpc.v1``. Threads may
    share a client. A forked or unpickled copy dials for itself.

    Example:
        >>> with EvalClient("localhost:50051") as client:
        ...     job = client.evaluate(model="qwen2_5_vl", tasks=["mme"], model_args={"pretrained": "/ckpt/step-100"})
        ...     result = client.wait_for_job(job["job_id"])["result"]
    """

    def __init__(
        self,
        base_url: str = "http://localhost:50051",
        timeout: float | None = None,
        *,
        heartbeat_interval: float = 15.0,
        reconnect_timeout: float | None = 300.0,
        credentials: Credentials | None = None,
        token: str | None = None,
        token_file: str | PathLike[str] | None = None,
        plaintext_token: bool | None = None,
    ) -> None:
        super().__init__(
            base_url,
            timeout,
            heartbeat_interval=heartbeat_interval,
            reconnect_timeout=reconnect_timeout,
            credentials=credentials,
            token=token,
            token_file=token_file,
            plaintext_token=plaintext_token,
        )
        self._transport = Transport(self._settings)

    __init__.__doc__ = ClientBase.__init__.__doc__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections and ends the streams that are open. May be called again."""
        self._transport.close()

    # Health

    def health(self) -> dict[str, Any]:
        """Returns status ("healthy" while the server takes jobs, otherwise "not serving"), timestamp and queue_size."""
        status = self._transport.health_status()
        queue = self._transport.unary(lambda stub: stub.QueueStatus, service.QueueStatusRequest()).queue
        return dictionaries.health(status, queue, datetime.now(UTC))

    def is_healthy(self) -> bool:
        """Whether the server can be reached and takes jobs."""
        try:
            return bool(self.health()["status"] == "healthy")
        except EvalServiceError:
            return False

    def wait_for_ready(self, timeout: float = 60.0) -> None:
        """Returns once the server takes jobs, which it may do long after it was started.

        Raises:
            ServerUnavailable: it did not within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        cause = None
        while (left := deadline - time.monotonic()) > 0:
            try:
                if self._transport.health_status(timeout=left) == dictionaries.SERVING:
                    return
            except ServerUnavailable as error:
                # The last attempt may only have run out of time; what an earlier one met says more.
                cause = error if cause is None or error.code == "UNAVAILABLE" else cause
            self._transport.sleep(min(READY_POLL, left))
        raise not_ready(self._settings.address, timeout, cause) from cause

    # Jobs

    def evaluate(
        self,
        model: str,
        tasks: str | Sequence[str],
        model_args: Mapping[str, Any] | str | None = None,
        num_fewshot: int | None = None,
        batch_size: int | str | None = None,
        device: str | None = None,
        limit: int | float | None = None,
        gen_kwargs: Mapping[str, Any] | str | None = None,
        log_samples: bool = True,
        predict_only: bool = False,
        num_gpus: int = 1,
        output_dir: str | PathLike[str] | None = None,
        **options: Unpack[EvaluationOptions],
    ) -> dict[str, Any]:
        """Submits an evaluation and returns as soon as it is queued.

        Args:
            model: Model backend, as listed by `list_models`.
            tasks: Tasks, groups, tags, globs, or paths of task files on the server; also as "a,b".
            model_args: Arguments of the backend, as a dictionary or as "pretrained=/ckpt/step-100,dtype=bfloat16".
            num_fewshot: Few-shot examples per prompt. None: as the task says.
            batch_size: A number, also as text, or "auto". None: "auto".
            device: "cuda:1" for that device, "cuda" or "cpu" for any of its kind. None: any free one.
            limit: Documents of each task: a count from 1 on, a share between 0 and 1 (exclusive), -1 or None for all.
                As in lmms-eval, 1.0 means one document, and 2.7 two.
            gen_kwargs: Overrides of the tasks' generation arguments, as a dictionary or as "temperature=0,top_p=0.9".
            log_samples: Keep per-sample records, for `iter_samples`.
            predict_only: Generate only; no metrics.
            num_gpus: Devices that the job takes, all for itself.
            output_dir: Folder on the server for the results files. None: the job's own.
            options: See `EvaluationOptions`.

        Returns:
            job_id, status ("queued"), position_in_queue (zero-based), message. With validate_only: status "valid".

        Raises:
            InvalidRequest: fields are wrong; its `violations` lists all of them.
            QueueFull: as many jobs wait as may; its `retry_after` says when to try again.
            TooManyJobs: you have as many jobs that have not ended as you may.
            TooManySubmissions: you submit faster than you may; its `retry_after` says when to try again.
            RequestConflict: `request_id` was used before with other arguments.
            ServerUnavailable: the server cannot be reached.
        """
        request = requests.evaluate(
            model=model,
            tasks=tasks,
            model_args=model_args,
            num_fewshot=num_fewshot,
            batch_size=batch_size,
            device=device,
            limit=limit,
            gen_kwargs=gen_kwargs,
            log_samples=log_samples,
            predict_only=predict_only,
            num_gpus=num_gpus,
            output_dir=output_dir,
            options=options,
        )
        response = self._transport.unary(lambda stub: stub.Evaluate, request)
        return dictionaries.submission(response.job if response.HasField("job") else None)

    def get_job(self, job_id: str) -> dict[str, Any]:
        """Returns a job, finished or not.

        lmms-eval's keys are job_id, status, created_at, started_at, completed_at (ISO 8601 in UTC), request, result,
        error, position_in_queue. Once the job has completed, `result` is the results document in lmms-eval's layout,
        with what the service adds (intervals, throughput, files) under "service"; a merge has merged_path. `error` is
        the failure in words with the end of the log. Further keys: error_info, kind, labels, priority, attempt,
        devices, progress, task_results (of the tasks finished so far), cancel_reason, request_id, owner.

        Raises:
            JobNotFound: there is no such job.
        """
        return dictionaries.job(self.get(job_id))

    def get(self, job_id: str) -> messages.Job:
        """Returns a job with its results, as the service's message.

        Raises:
            JobNotFound: there is no such job.
        """
        return self._get(job_id, self._settings.call_timeout)

    def list_jobs(
        self,
        states: State | Iterable[State] = (),
        labels: Mapping[str, str] | None = None,
        *,
        owner: str = "",
        page_size: int = 50,
        full: bool = False,
    ) -> Iterator[messages.Job]:
        """Lists jobs, newest first, fetching page after page as they are asked for.

        Args:
            states: Only jobs in this state, or these ("queued", "running", …). Empty: any.
            labels: Only jobs that carry all these labels.
            owner: Only jobs that this principal submitted. Empty: anybody's.
            page_size: Jobs per call, 1 to 500.
            full: With results.
        """
        request = requests.list_jobs(states, labels, owner, page_size, full=full)
        for page in self._transport.pages(lambda stub: stub.ListJobs, request):
            yield from page.jobs

    def cancel_job(self, job_id: str, reason: str = "") -> dict[str, Any]:
        """Cancels a queued or running job; one that has ended is left as it is.

        Returns:
            message, job_id, status: "cancelled", "cancelling" while the worker is being stopped, or as it had ended.

        Raises:
            JobNotFound: there is no such job.
        """
        request = service.CancelJobRequest(job_id=job_id, reason=reason)
        return dictionaries.cancellation(self._transport.unary(lambda stub: stub.CancelJob, request).job)

    def wait_for_job(
        self,
        job_id: str,
        poll_interval: float = 5.0,
        timeout: float | None = None,
        verbose: bool = True,
    ) -> dict[str, Any]:
        """Returns the job, as `get_job` does, once it has completed or was cancelled.

        Waiting streams: the end is known within milliseconds, and interruptions of the connection are bridged.

        Args:
            job_id: The job.
            poll_interval: Accepted for lmms-eval's sake and ignored: nothing is polled.
            timeout: Seconds to wait. None: no bound.
            verbose: Print state changes, task results and progress; in a notebook, as a bar that is updated in place.

        Raises:
            JobFailed: the job failed (a RuntimeError); its `job` is what `get_job` returns.
            TimeoutError: `timeout` passed; the job goes on.
            JobNotFound: there is no such job.
            ServerUnavailable: the server was unreachable for `reconnect_timeout`.
        """
        waiting = self._settings.reconnection(f"waiting for job {job_id}", timeout)
        narrator = make_narrator(job_id, verbose)
        watched = False
        while True:
            job = self._get_through_outages(job_id, waiting)
            narrator.tell_job(job)
            if dictionaries.has_ended(job.state):
                return outcome(job)
            if watched:
                self._transport.sleep(waiting.delay_after(None))
            for event in self._watch(job_id, job.sequence, waiting):
                narrator.tell_event(event)
            watched = True

    def watch_job(self, job_id: str, after_sequence: int = 0) -> Iterator[messages.JobEvent]:
        """Yields a job's events until the terminal one: state changes and task results, each once, and progress.

        A broken connection is resumed where it broke.

        Args:
            job_id: The job.
            after_sequence: Only events after this one. 0: from the first.

        Raises:
            JobNotFound: there is no such job.
            SequenceOutOfRange: the job has no event `after_sequence` yet.
            ServerUnavailable: the server was unreachable for `reconnect_timeout`.
        """
        return self._watch(job_id, after_sequence, self._settings.reconnection(f"watching job {job_id}"))

    def iter_logs(self, job_id: str, follow: bool = False, after_offset: int = 0) -> Iterator[str]:
        """Yields the text of the worker's log, in pieces.

        Args:
            job_id: The job.
            follow: Go on until the job ends. Otherwise stop after what is there.
            after_offset: Bytes to skip. Negative: start that many bytes before the end.
        """
        state = Logs(job_id, follow, after_offset)
        return self._transport.follow(
            lambda stub: stub.StreamLogs, state, self._settings.reconnection(f"reading the log of job {job_id}")
        )

    # The queue

    def get_queue_status(self) -> dict[str, Any]:
        """Returns queue_size, running_job, queued_jobs, completed_jobs, failed_jobs.

        Beyond lmms-eval's keys: cancelled_jobs, running_jobs (all of them), accepting, capacity, slots, revision,
        paused, pause_reason, draining, trouble.
        """
        return dictionaries.queue(
            self._transport.unary(lambda stub: stub.QueueStatus, service.QueueStatusRequest()).queue
        )

    def watch_queue(self) -> Iterator[service.QueueSnapshot | service.QueueChange]:
        """Yields the queue and then its changes, without end.

        There is a new snapshot after a break, and when the queue was paused, resumed, reordered or drained, or the
        server cannot take jobs for another reason (trouble), or can again.
        """
        state = QueueWatch(self._settings.heartbeat_interval)
        return self._transport.follow(
            lambda stub: stub.WatchQueue,
            state,
            self._settings.reconnection("watching the queue"),
            silence_limit=self._settings.silence_limit,
        )

    def merge_checkpoint(
        self,
        checkpoint_path: str | PathLike[str],
        output_path: str | PathLike[str] | None = None,
        checkpoint_type: CheckpointType = "regular",
        *,
        config_path: str | PathLike[str] | None = None,
        max_shard_bytes: int | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        request_id: str | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Merges a sharded checkpoint on the server into one that ``from_pretrained`` loads.

        Args:
            checkpoint_path: Folder of the sharded checkpoint, on the server.
            output_path: Folder to create. None: beside the checkpoint, as merged-NAME.
            checkpoint_type: "regular" for the trained weights, "ema" for their moving average.
            config_path: Folder on the server with the configuration, tokenizer and processor that belong to the
                weights. None: the checkpoint's folder and those above it are searched.
            max_shard_bytes: Bytes of the largest file of weights to write. None: 5 GB.
            labels: Your own labels, as for `evaluate`.
            priority: Higher runs first, -1000 to 1000.
            request_id: Idempotency key, a UUID. Left out, a new one is made, so that a retry never merges twice.
            wait: As lmms-eval does, wait for the end. Otherwise return what `evaluate` returns.
            timeout: Seconds to wait. None: no bound.

        Returns:
            success, message, merged_path, job_id.

        Raises:
            JobFailed: the merge failed.
            TimeoutError: `timeout` passed; the merge goes on.
        """
        request = requests.merge_checkpoint(
            checkpoint_path,
            output_path,
            checkpoint_type,
            config_path=config_path,
            max_shard_bytes=max_shard_bytes,
            labels=labels,
            priority=priority,
            request_id=request_id,
        )
        job = self._transport.unary(lambda stub: stub.MergeCheckpoint, request).job
        if not wait:
            return dictionaries.submission(job)
        return dictionaries.merge(self.wait_for_job(job.job_id, timeout=timeout, verbose=False))

    def _get(self, job_id: str, timeout: float | None) -> messages.Job:
        request = service.GetJobRequest(job_id=job_id, view=messages.JOB_VIEW_FULL)
        return self._transport.unary(lambda stub: stub.GetJob, request, timeout).job

    def _get_through_outages(self, job_id: str, waiting: Reconnection) -> messages.Job:
        while True:
            try:
                return self._get(job_id, waiting.time_left(self._settings.call_timeout))
            except ServerUnavailable as error:
                self._transport.sleep(waiting.delay_after(error.rpc_error))

    def _watch(self, job_id: str, after_sequence: int, waiting: Reconnection) -> Iterator[messages.JobEvent]:
        state = JobWatch(job_id, after_sequence, self._settings.heartbeat_interval)
        limit = self._settings.silence_limit
        return self._transport.follow(lambda stub: stub.WatchJob, state, waiting, silence_limit=limit)

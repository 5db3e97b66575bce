"""The metrics that are added to as things happen. Those that are looked up when somebody asks are in ``state``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, Info

PREFIX = "lmms_eval_grpc"

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
JOB_SECONDS = (
    *(1, 5, 15, 30),
    *(minutes * _MINUTE for minutes in (1, 5, 15, 30)),
    *(hours * _HOUR for hours in (1, 2, 4, 8)),
    *(days * _DAY for days in (1, 3, 7)),
)
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Instruments:
    """One server's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace=PREFIX, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, namespace=PREFIX, buckets=buckets, registry=registry)

        self.build = Info(
            "build", "Versions of the server and of what it runs on.", namespace=PREFIX, registry=registry
        )

        self.jobs_submitted = counter("jobs_submitted_total", "Jobs taken in.", "kind")
        self.jobs_ended = counter("jobs_ended_total", "Jobs that ended.", "kind", "outcome")
        self.job_failures = counter("job_failures_total", "Failures; also of attempts that another followed.", "code")
        self.attempts = counter("attempts_total", "Attempts started.", "kind")
        self.requeues = counter(
            "requeues_total", "Attempts after which the job waits again: failed, or interrupted.", "cause"
        )
        self.job_wait = histogram(
            "job_wait_seconds", "From a job's submission to the start of its first attempt.", JOB_SECONDS, "kind"
        )
        self.job_run = histogram(
            "job_run_seconds", "Length of the attempt with which a job ended.", JOB_SECONDS, "kind", "outcome"
        )
        self.samples_answered = counter(
            "samples_answered_total", "Samples answered, by the model or from the cache.", "source"
        )
        self.samples_scored = counter("samples_scored_total", "Samples scored, in tasks that are done.")
        self.sample_errors = counter("sample_errors_total", "Samples with an error, in tasks that are done.")
        self.output_tokens = counter("output_tokens_total", "Tokens generated.")
        self.input_tokens = counter("input_tokens_total", "Tokens of the prompts of completed jobs.")

        self.calls_started = counter("rpc_started_total", "Calls that arrived.", "method")
        self.calls_handled = counter("rpc_handled_total", "Calls that are over.", "method", "code")
        self.call_seconds = histogram(
            "rpc_seconds", "Length of calls that are answered once.", CALL_SECONDS, "method", "code"
        )
        self.refusals = counter("refusals_total", "Calls refused, by the reason that the caller is told.", "reason")

        self.commits = histogram("store_commit_seconds", "Length of a commit of the job store.", COMMIT_SECONDS)
        self.writes = counter("store_writes_total", "Writes to the job store; one commit holds many.")
        self.loop_lag = histogram(
            "event_loop_lag_seconds", "How late the server's event loop is, looked at four times a second.", LAG_SECONDS
        )

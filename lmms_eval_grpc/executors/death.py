"""Why a worker that said no last word is dead."""

from __future__ import annotations

import signal

from lmms_eval_grpc.jobs.results import JobError, JobErrorCode


def describe_death(status: int | None, kills_known: bool, memory_killed: bool) -> JobError:
    """Why a worker without a last word is dead.

    Args:
        status: its exit status (minus the signal; None when nobody knows).
        kills_known: whether the kernel tells of kills for want of memory.
        memory_killed: whether there was one while the worker lived.
    """
    if memory_killed and status in (None, -signal.SIGKILL):
        message = (
            "the worker was killed while the kernel killed for want of memory: use a smaller batch_size or"
            " max_batch_size, fewer pixels or frames per sample, or a machine with more memory"
        )
        details = {"exit_status": str(status), "signal": "SIGKILL"} if status is not None else {}
        return JobError(JobErrorCode.OUT_OF_MEMORY, "KILLED_FOR_MEMORY", message, details)
    if status is None:
        return JobError(
            JobErrorCode.WORKER_DIED,
            "WORKER_KILLED",
            "the worker died, and the template process that it was forked from could not say how: it died or hangs",
        )
    if status >= 0:
        return JobError(
            JobErrorCode.WORKER_DIED,
            "WORKER_EXITED",
            f"the worker ended with exit status {status} before the job was done",
            {"exit_status": str(status)},
        )
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    message = f"the worker was killed by {name}"
    if name == "SIGKILL" and kills_known:
        message += "; not by the kernel's out-of-memory killer, which counts its kills"
    elif name == "SIGKILL":
        message += (
            "; if nobody did that on purpose, it was the kernel's out-of-memory killer: try a smaller batch_size, or a"
            " machine with more memory"
        )
    return JobError(JobErrorCode.WORKER_DIED, "WORKER_KILLED", message, {"exit_status": str(status), "signal": name})

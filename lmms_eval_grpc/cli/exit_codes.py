"""What the exit status of each command means; part of the interface, so numbers never change their meaning."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of ``lmms-eval-grpc``."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    CANCELLED = 5
    REFUSED = 6
    SERVER_ERROR = 7
    BUG = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done; watch, eval: completed",
    ExitCode.JOB_FAILED: "watch: the job failed; eval, score and merge --local: that did; doctor: a check failed",
    ExitCode.USAGE: "the command line or the request is invalid",
    ExitCode.NOT_FOUND: "there is no such job",
    ExitCode.UNREACHABLE: "the server cannot be reached, or did not answer in time",
    ExitCode.CANCELLED: "watch: the job was cancelled",
    ExitCode.REFUSED: "refused for now (queue full, a limit reached, server draining); try again",
    ExitCode.SERVER_ERROR: "the server failed, does not allow it, or cannot do it",
    ExitCode.BUG: "a bug of this program; the traceback says where",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
    ExitCode.BROKEN_PIPE: "the reader of the output went away",
}


def describe_exit_codes() -> str:
    """The table of exit codes for ``--help``."""
    return "exit codes:\n" + "\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())

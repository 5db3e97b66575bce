"""From what went wrong to an exit code and words on stderr. The one table of the command line's failures."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from typing import Any

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.client import (
    EvalServiceError,
    InvalidRequest,
    JobNotFound,
    JobNotQueued,
    QueueFull,
    QueuePaused,
    RequestConflict,
    SamplesNotLogged,
    SequenceOutOfRange,
    ServerUnavailable,
    TooManyJobs,
    TooManySubmissions,
    TooManyWatches,
)
from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationError
from lmms_eval_grpc.engine.exhaustion import shortage

_EXIT_CODES: tuple[tuple[type[EvalServiceError], ExitCode], ...] = (
    (InvalidRequest, ExitCode.USAGE),
    (RequestConflict, ExitCode.USAGE),
    (SamplesNotLogged, ExitCode.USAGE),
    (SequenceOutOfRange, ExitCode.USAGE),
    (JobNotQueued, ExitCode.USAGE),
    (QueuePaused, ExitCode.USAGE),
    (JobNotFound, ExitCode.NOT_FOUND),
    (QueueFull, ExitCode.REFUSED),
    (TooManyWatches, ExitCode.REFUSED),
    (TooManyJobs, ExitCode.REFUSED),
    (TooManySubmissions, ExitCode.REFUSED),
    (ServerUnavailable, ExitCode.UNREACHABLE),
)


def attempt(work: Callable[[], int], output: Output, verbosity: str = "INFO", *, again: str | None = None) -> int:
    """Does the work and returns its exit code; a failure that a user can understand is told, and becomes its code.

    ``again``: what to do once there is space, where a disk was full; None for work that evaluates nothing: want
    of memory and disk space are no usual failures of that.
    """
    try:
        return int(work())
    except UsageError as error:
        return report_usage(error, output)
    except EvaluationError as error:
        return report_evaluation(_told_as_shortage(error, error.message, again) or error, output, verbosity)
    except EvalServiceError as error:
        return report(error, output)
    except SystemExit as error:
        # Tasks' code runs in this process; whatever status it wanted, nothing was finished.
        exited = EvaluationError("PROCESS_EXIT", f"the code of a task ended the process (SystemExit: {error})")
        exited.__cause__ = error
        return report_evaluation(exited, output, verbosity)
    except (EvaluationCancelled, BrokenPipeError):
        raise
    except Exception as error:
        short = _told_as_shortage(error, f"{type(error).__name__}: {error}", again)
        if short is None:
            raise
        return report_evaluation(short, output, verbosity)


def _told_as_shortage(error: Exception, message: str, again: str | None) -> EvaluationError | None:
    """What to tell where memory or disk space ran out, whatever that made fail; None for all else."""
    found = None if again is None else shortage(error, again)
    if found is None:
        return None
    told = EvaluationError(found.reason, f"{message}; {found.remedy}")
    told.__cause__ = error
    return told


def exit_code_of(error: EvalServiceError) -> ExitCode:
    """The exit code that tells ``error``."""
    if isinstance(error, ServerUnavailable) and error.reason:
        # The server itself said so: it is there, but starts, drains or cannot write.
        return ExitCode.REFUSED
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.SERVER_ERROR)


def report(error: EvalServiceError, output: Output) -> ExitCode:
    """Prints ``error`` to stderr, each wrong field on a line of its own, and returns its exit code."""
    code = exit_code_of(error)
    if output.as_json:
        output.report({"error": _describe(error)})
    elif isinstance(error, InvalidRequest) and error.violations:
        output.remark("error: the request is invalid")
        for violation in error.violations:
            output.remark(f"  {violation.field}: {violation.description}" if violation.field else violation.description)
    else:
        output.remark(f"error: {error}")
        if error.retry_after is not None:
            output.remark(f"try again in {math.ceil(error.retry_after)} s")
        if code is ExitCode.UNREACHABLE:
            output.remark("start one with `lmms-eval-grpc serve`, or name another with --address")
    return code


def report_usage(error: UsageError, output: Output) -> ExitCode:
    """Prints what is wrong with the command line or its surroundings, and returns the exit code for that."""
    if output.as_json:
        described: dict[str, Any] = {"code": "USAGE", "reason": "", "message": str(error)}
        if error.problems:
            described["violations"] = [{"field": field, "description": text} for field, text in error.problems]
        output.report({"error": described})
        return ExitCode.USAGE
    output.remark(f"error: {error}")
    for field, description in error.problems:
        output.remark(f"  {field}: {description}" if field else f"  {description}")
    return ExitCode.USAGE


def report_evaluation(error: EvaluationError, output: Output, verbosity: str = "INFO") -> ExitCode:
    """Prints why something that was done in this process failed; with verbosity DEBUG where, too."""
    if output.as_json:
        output.report({"error": {"code": "EVALUATION", "reason": error.reason, "message": error.message}})
    else:
        output.remark(f"failed ({error.reason}): {error.message}")
    if verbosity == "DEBUG":
        output.remark("".join(traceback.format_exception(error)))
    return ExitCode.JOB_FAILED


def _describe(error: EvalServiceError) -> dict[str, Any]:
    described: dict[str, Any] = {"code": error.code, "reason": error.reason, "message": str(error)}
    if error.metadata:
        described["metadata"] = error.metadata
    if error.retry_after is not None:
        described["retry_after_seconds"] = error.retry_after
    if isinstance(error, InvalidRequest):
        described["code"] = error.code or "INVALID_ARGUMENT"
        described["violations"] = [
            {"field": violation.field, "description": violation.description} for violation in error.violations
        ]
    return described

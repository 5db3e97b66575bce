"""Keeps the secrets of a job, and of the worker's environment, out of what the worker prints, logs and reports."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from lmms_eval_grpc.engine.record.redact import hide, secret_values
from lmms_eval_grpc.jobs.results import JobError
from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobSpec

SHORTEST_OF_ENVIRONMENT = 12
"""Characters of a value of the environment that is looked for: more than of a job's, for its names tell less."""


def secrets_of(spec: JobSpec, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What may not be seen of a job: the secrets in its arguments, and those that variables of the environment hold."""
    own = secret_values([spec.model_args, spec.gen_kwargs]) if isinstance(spec, EvaluationSpec) else ()
    others = [text for text in secret_values(dict(environment)) if len(text) >= SHORTEST_OF_ENVIRONMENT]
    return tuple(dict.fromkeys((*own, *others)))


def hide_in_output(secrets: Sequence[str]) -> None:
    """From now on standard output and error, as Python's code writes to them, and log records lack these secrets. Our
    own log handler must be made anew, so that tracebacks lack them too. What other programs write to the
    descriptors passes by."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        plain = stream.plain if isinstance(stream, HidingStream) else stream
        setattr(sys, name, HidingStream(plain, secrets))

    # Libraries have handlers of their own, made with the streams as they were.
    logging.setLogRecordFactory(functools.partial(_make_record, secrets))


def hide_in_error(error: JobError, secrets: Sequence[str]) -> JobError:
    """``error`` without the secrets that its texts quote."""
    return dataclasses.replace(
        error,
        message=hide(error.message, secrets),
        details={key: hide(value, secrets) for key, value in error.details.items()},
    )


def _make_record(secrets: Sequence[str], *arguments: Any, **more: Any) -> logging.LogRecord:
    record = logging.LogRecord(*arguments, **more)
    try:
        plain = record.getMessage()
        shown = hide(plain, secrets)
        if shown != plain:  # else what it is made of stays: some handlers look at that
            record.msg, record.args = shown, ()
    except Exception:  # arguments that do not fit; whoever writes the record tells that
        pass
    return record


class HidingStream:
    """A text stream in which secrets are replaced, as far as each is written in one piece."""

    def __init__(self, plain: TextIO, secrets: Sequence[str]) -> None:
        self.plain = plain
        self._secrets = secrets

    def write(self, text: str) -> int:
        self.plain.write(hide(text, self._secrets))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

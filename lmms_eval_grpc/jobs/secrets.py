"""What of a specification is secret: kept in a file of the job's folder, for this user only, until the job has ended.

The job itself, which is stored, sent and shown, has :data:`PLACEHOLDER` in the place of each secret.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobSpec

logger = logging.getLogger(__name__)

SECRETS_FILE = "secrets.json"
PLACEHOLDER = "[redacted]"
"""Stands for a secret."""
FIELDS = ("model_args", "gen_kwargs")
"""The parts of an evaluation's specification that may hold secrets."""

_BLOCK = 1024 * 1024


class SecretsLost(Exception):
    """A job cannot run, because its secrets are not there any more."""

    def __init__(self) -> None:
        super().__init__(
            f"what stands as {PLACEHOLDER} in the job is not there any more; submit the evaluation again with it"
        )


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a specification holds beyond what may be seen of it."""

    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The parts that hold secrets, in full, by their names in :data:`FIELDS`."""
    values: tuple[str, ...] = field(default=(), repr=False)
    """The secrets themselves, as they may turn up in logs; the longest first."""

    def __bool__(self) -> bool:
        return bool(self.fields)


def write(folder: Path, secrets: Secrets) -> None:
    """Puts secrets into a job's folder, which is made, durably. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(folder / SECRETS_FILE, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump({"fields": secrets.fields, "values": secrets.values}, file)
        file.flush()
        os.fsync(file.fileno())
    for changed in (folder, folder.parent):
        descriptor = os.open(changed, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(folder: Path) -> Secrets:
    """The secrets in a job's folder; none where there is no such file. Raises SecretsLost."""
    try:
        told = json.loads((folder / SECRETS_FILE).read_text(encoding="utf-8"))
        return Secrets(told["fields"], tuple(told["values"]))
    except FileNotFoundError:
        return Secrets()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SecretsLost from error


def complete(spec: JobSpec, folder: Path) -> JobSpec:
    """``spec`` with its secrets, to run it. Raises SecretsLost."""
    if not isinstance(spec, EvaluationSpec) or not has_placeholder(spec):
        return spec
    secrets = read(folder)
    if not secrets:
        raise SecretsLost
    return dataclasses.replace(spec, **secrets.fields)


def has_placeholder(spec: EvaluationSpec) -> bool:
    """Whether something is left out of the specification as it is stored."""
    return any(map(_has_placeholder, (spec.model_args, spec.gen_kwargs)))


def withdraw(folder: Path) -> None:
    """Takes back what :func:`write` did for a job that was not made after all."""
    with contextlib.suppress(OSError):
        (folder / SECRETS_FILE).unlink(missing_ok=True)
        folder.rmdir()


def clear(folder: Path) -> None:
    """Removes the secrets of a job that has ended, and blots them out where they got into files of its folder."""
    path = folder / SECRETS_FILE
    values: Collection[str] = ()
    try:
        values = read(folder).values
        if not values and not path.exists():
            return
    except SecretsLost:
        pass  # There is a file, and nobody can use it.
    try:
        for file in folder.rglob("*"):
            if file != path and file.is_file() and not file.is_symlink():
                _try_to_blot_out(file, values)
    except OSError as error:
        logger.warning("the folder of job %s cannot be looked through for its secrets: %s", folder.name, error)
    # In any case: what is left in another file is less than what is in this one.
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("the secrets of job %s cannot be removed: %s", folder.name, error)


def clear_others(jobs_dir: Path, unfinished: Collection[str]) -> None:
    """:func:`clear` for all jobs but those that have not ended; for what a server that died had not come to."""
    for path in jobs_dir.glob(f"*/{SECRETS_FILE}"):
        if path.parent.name not in unfinished:
            clear(path.parent)


def _has_placeholder(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_placeholder, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_placeholder, value))
    return isinstance(value, str) and PLACEHOLDER in value


def _try_to_blot_out(path: Path, values: Collection[str]) -> None:
    try:
        _blot_out(path, values)
    except OSError as error:
        logger.warning("%s may hold secrets of its job and cannot be overwritten: %s", path, error.strerror)


def _blot_out(path: Path, values: Collection[str]) -> None:
    """Overwrites secrets in place, so that whoever remembers an offset can go on, and what is JSON stays it: digits
    alone may be of any number and are left."""
    texts = [value for value in values if not value.isdecimal()]
    forms = sorted({form.encode() for value in texts for form in (value, json.dumps(value)[1:-1])}, key=len)[::-1]
    if not forms:
        return
    overlap = len(forms[0]) - 1
    with path.open("r+b") as file:
        position = 0
        while True:
            file.seek(position)
            block = file.read(_BLOCK + overlap)
            clean = block
            for form in forms:
                clean = clean.replace(form, b"*" * len(form))
            if clean != block:
                file.seek(position)
                file.write(clean)
            if len(block) <= _BLOCK:
                return
            position += _BLOCK

"""What is secret in requests: taken out of what is stored and told, and part of their digests all the same."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
import secrets as random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.record.redact import hide, redact, secret_values
from lmms_eval_grpc.jobs.errors import Violation
from lmms_eval_grpc.jobs.secrets import FIELDS, PLACEHOLDER, Secrets
from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobSpec
from lmms_eval_grpc.server.convert_spec import Request, payload_of
from lmms_eval_grpc.server.convert_values import read_struct
from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.v1.evaluation_service_pb2 import EvaluateRequest
from lmms_eval_grpc.worker.path_rules import strings

KEY_FILE = "digest_key"
"""In the state folder: the key of digests of requests with secrets."""
_KEY_BYTES = 32


def split_secrets(spec: JobSpec) -> tuple[JobSpec, Secrets]:
    """``spec`` as it may be seen, and what that leaves out."""
    if not isinstance(spec, EvaluationSpec):
        return spec, Secrets()
    given = {name: getattr(spec, name) for name in FIELDS}
    if redact(given) == given:
        return spec, Secrets()
    known = secret_values(given)  # which may stand in other places too
    shown = {name: redact(values, known) for name, values in given.items()}
    hidden = {name: values for name, values in given.items() if shown[name] != values}
    return dataclasses.replace(spec, **shown), Secrets(hidden, secret_values(hidden))


def hide_secrets(violations: Sequence[Violation], spec: JobSpec) -> list[Violation]:
    """``violations`` of ``spec`` without its secrets, which descriptions quote."""
    known = secret_values({name: getattr(spec, name) for name in FIELDS}) if isinstance(spec, EvaluationSpec) else ()
    return [Violation(one.field, hide(one.description, known)) for one in violations]


def check_placeholders(spec: EvaluationSpec) -> Iterator[Violation]:
    """Whether what GetJob shows in the place of secrets was taken for them."""
    for name in FIELDS:
        for place, text in strings(getattr(spec, name), f"spec.{name}"):
            if PLACEHOLDER in text:
                yield Violation(
                    place, f"{PLACEHOLDER} is what jobs show in the place of a secret; give the secret itself"
                )


class RequestDigests:
    """Tells whether two requests are the same, also where they cannot be kept because of what is secret in them."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of_state_dir(cls, folder: Path) -> RequestDigests:
        """With the key of that folder, which is made where there is none. Raises ServerStartError."""
        path = folder / KEY_FILE
        try:
            if not path.exists():
                draft = path.with_suffix(".new")
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(random.token_bytes(_KEY_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)
            return cls(path.read_bytes())
        except OSError as error:
            raise ServerStartError(f"state_dir: {KEY_FILE} in it cannot be read or made: {error.strerror}") from error

    def of(self, request: Request) -> str:
        """Digest of the request without what does not decide the job: ``request_id``, ``validate_only``.

        A plain SHA-256 where nothing is secret; with a key where something is, for a short secret could be found by
        trying.
        """
        payload = payload_of(request)
        if not _has_secrets(request):
            return hashlib.sha256(payload).hexdigest()
        return hmac.digest(self._key, payload, "sha256").hex()


def _has_secrets(request: Any) -> bool:
    if not isinstance(request, EvaluateRequest):
        return False
    given = {name: read_struct(getattr(request.spec, name)) for name in FIELDS}
    return bool(redact(given) != given)

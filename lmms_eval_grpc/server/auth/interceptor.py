"""What runs around every call: who it is, whether they may, and a line in the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from lmms_eval_grpc.jobs.errors import InvalidRequest, PermissionDenied, ServiceError, Unauthenticated, Violation
from lmms_eval_grpc.server.around import Around, Behaviour, Context, Decoder, metadata_of
from lmms_eval_grpc.server.auth.access import Access, Grant
from lmms_eval_grpc.server.auth.audit_log import AuditLog
from lmms_eval_grpc.server.auth.table import AUDITED, MINIMUM_ROLES
from lmms_eval_grpc.server.errors import status_of
from lmms_eval_grpc.server.limits import client_of
from lmms_eval_grpc.server.observe import note_job
from lmms_eval_grpc.server.principals import ANONYMOUS, UNKNOWN, Principal, Role, current_principal, set_principal
from lmms_eval_grpc.server.transport import certificate_name

AUTHORIZATION = "authorization"
"""Metadata key of a token."""
_LONGEST_ID = 64


@dataclass(frozen=True, slots=True)
class Undecoded:
    """A request as it came: nothing is made of it before it is known who sent it."""

    data: bytes
    decode: Decoder

    def read(self) -> Any:
        """The message. Raises InvalidRequest."""
        try:
            return self.decode(self.data)
        except Exception as error:
            raise InvalidRequest([Violation("", f"the request is not a message of its type: {error}")]) from error


class Authenticate(Around):
    """Finds out who calls, and refuses those who may not before anything of their request is looked at.

    For as long as a call lasts its credentials must be valid.
    """

    def __init__(self, access: Access, log: AuditLog | None = None) -> None:
        self._access = access
        self._log = log

    def decoder(self, decode: Decoder | None) -> Decoder | None:
        return None if decode is None else lambda data: Undecoded(data, decode)

    async def call(self, behaviour: Behaviour, request: Any, context: Context, method: str) -> Any:
        try:
            grant = self._admit(context, method)
        except (Unauthenticated, PermissionDenied) as error:
            self._note_refusal(error, context, method)
            raise
        message = request.read() if isinstance(request, Undecoded) else _read_all(request)
        note_job(message)
        return await self._access.while_valid(grant, behaviour(message, context))

    def _admit(self, context: Context, method: str) -> Grant:
        """Whose call it is, once it is clear that it may be made; notes who it is in any case."""
        needed = MINIMUM_ROLES.get(method)
        if needed is Role.NONE:
            principal = UNKNOWN if self._access.is_asked_for else ANONYMOUS
            set_principal(principal)
            return Grant(principal)
        values = [value for key, value in metadata_of(context) if key.lower() == AUTHORIZATION]
        grant = self._access.identify(values, certificate_name(context.auth_context()))
        set_principal(grant.principal)
        if needed is None:
            raise PermissionDenied(f"nobody may call {method}: no role is set for it", permission="none")
        _check_role(grant.principal, needed, method)
        return grant

    def _note_refusal(self, error: ServiceError, context: Context, method: str) -> None:
        if self._log is not None:
            principal = current_principal()
            caller = client_of(context.peer()) if principal is UNKNOWN else principal.name
            self._log.write_refusal(caller, _line(error, context, method))


def _check_role(principal: Principal, needed: Role, method: str) -> None:
    if principal.role < needed:
        raise PermissionDenied(
            f"{method.rpartition('/')[2]} needs the role {needed.word}, and {principal.name} has the role"
            f" {principal.role.word}",
            permission=needed.word,
        )


async def _read_all(requests: Any) -> AsyncIterator[Any]:
    async for request in requests:
        yield request.read() if isinstance(request, Undecoded) else request


class Audit(Around):
    """Writes a line of the audit log for every call that changes something, when it is over."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def call(self, behaviour: Behaviour, request: Any, context: Context, method: str) -> Any:
        if method not in AUDITED:
            return await behaviour(request, context)
        error: BaseException | None = None
        response = None
        try:
            response = await behaviour(request, context)
            return response
        except BaseException as raised:
            error = raised
            raise
        finally:
            line = {**_line(error, context, method), **_about(request, response)}
            if isinstance(error, PermissionDenied):
                self._log.write_refusal(current_principal().name, line)
            else:
                self._log.write(line)


def _line(error: BaseException | None, context: Context, method: str) -> dict[str, object]:
    """Who called what, from where, and how it ended."""
    principal = current_principal()
    return {
        "principal": principal.name,
        "role": principal.role.word,
        "peer": context.peer(),
        "method": method.lstrip("/"),
        "code": _code_of(error),
    }


def _code_of(error: BaseException | None) -> str:
    match error:
        case None:
            return "OK"
        case ServiceError():
            return str(status_of(error).code.name)
        case asyncio.CancelledError():
            return str(grpc.StatusCode.CANCELLED.name)
        case _:
            return str(grpc.StatusCode.INTERNAL.name)


def _about(request: Any, response: Any) -> dict[str, object]:
    """The job, or jobs, that a call was about, and the key that the caller gave it. Nothing else of the request: it
    may hold keys of models and judges."""
    told: dict[str, object] = {}
    job_id = getattr(getattr(response, "job", None), "job_id", "") or getattr(request, "job_id", "")
    if job_id:
        told["job_id"] = job_id[:_LONGEST_ID]
    if removed := list(getattr(response, "job_ids", ())):
        told["job_ids"] = removed
    if request_id := getattr(request, "request_id", ""):
        told["request_id"] = request_id[:_LONGEST_ID]
    for flag in ("validate_only", "dry_run"):
        if getattr(request, flag, False):
            told[flag] = True
    if priority := getattr(request, "priority", 0):
        told["priority"] = priority
    return told

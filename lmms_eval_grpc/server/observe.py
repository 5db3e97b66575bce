"""What is known of a call while it runs and when it is over, for those who follow calls: the log, metrics, traces."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

from lmms_eval_grpc.jobs import context as task_context
from lmms_eval_grpc.jobs.errors import ServiceError
from lmms_eval_grpc.server.around import Around, Behaviour, Context, Encoder, metadata_of
from lmms_eval_grpc.server.errors import TABLE
from lmms_eval_grpc.server.principals import current_principal

logger = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
"""Metadata key under which a caller may name a call, to find it in the server's log."""

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OWN_SERVICES = "lmms_eval_grpc."
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(slots=True)
class Call:
    """One call. What lies in the future is filled in when it ends."""

    method: str
    """Service and method: ``lmms_eval_grpc.v1.EvaluationService/GetJob``."""
    streaming: bool
    """Whether the server answers with a stream."""
    metadata: Sequence[tuple[str, str | bytes]]
    peer: str
    request_id: str
    job_id: str
    """The job that it is about, once the request has been read and if it names one, or has made one."""
    began: float
    """On the monotonic clock, in seconds."""
    seconds: float = 0.0
    code: str = "OK"
    reason: str = ""
    """``ErrorInfo.reason`` of a refusal."""
    principal: str = ""

    @property
    def of_this_service(self) -> bool:
        """Whether it is one of the services of this project, not health or reflection."""
        return self.method.startswith(_OWN_SERVICES)


class CallObserver(Protocol):
    """Follows calls. Must be quick; it is called on the event loop, in the call's context. What it raises is for the
    log."""

    def begins(self, call: Call) -> None:
        """The call has arrived."""

    def ends(self, call: Call) -> None:
        """The call is over, and its answer on its way; all of ``call`` is filled in."""

    def unknown(self) -> None:
        """Somebody called a method that there is none of."""


class ObserveCalls(Around):
    """Tells the observers of every call. Is outermost, so that it sees how each really ended."""

    def __init__(self, observers: Sequence[CallObserver]) -> None:
        self._observers = tuple(observers)
        self._encoders: dict[str, Encoder] = {}
        self.sent: dict[str, int] = {}
        """Messages written so far, by method that streams."""

    def note_unknown(self) -> None:
        """Somebody called a method that there is none of."""
        for observer in self._observers:
            observer.unknown()

    def encoder(self, encode: Encoder | None, method: str, *, streaming: bool) -> Encoder | None:
        if encode is None or not streaming:
            return encode
        name = _name(method)
        if (counting := self._encoders.get(name)) is None:
            counting = self._encoders[name] = self._counting(encode, name)
        return counting

    def _counting(self, encode: Encoder, method: str) -> Encoder:
        # Once per message of every watcher: as little as can be, and no lock, for all of it is on the event loop.
        sent = self.sent
        sent[method] = 0

        def encode_and_count(message: Any) -> bytes:
            sent[method] += 1
            return encode(message)

        return encode_and_count

    async def call(self, behaviour: Behaviour, request: Any, context: Context, method: str) -> Any:
        name, metadata = _name(method), metadata_of(context)
        call = Call(
            method=name,
            streaming=name in self.sent,
            metadata=metadata,
            peer=context.peer(),
            request_id=_id_of(metadata),
            job_id="",
            began=time.monotonic(),
        )
        task_context.request_id.set(call.request_id)
        task_context.job_id.set("")
        for observer in self._observers:
            try:
                observer.begins(call)
            except Exception:
                logger.exception("%s failed", type(observer).__name__)
        try:
            response = await behaviour(request, context)
        except asyncio.CancelledError:
            call.code = grpc.StatusCode.CANCELLED.name
            raise
        except grpc.aio.AbortError as error:
            call.code = _code(context)
            if isinstance(error.__context__, ServiceError):
                call.reason = TABLE[type(error.__context__)].reason
            raise
        except BaseException:
            call.code = grpc.StatusCode.UNKNOWN.name
            raise
        else:
            call.code = _code(context)
            if not task_context.job_id.get():
                note_job(getattr(response, "job", None))  # Of a new job the id is known only now.
            return response
        finally:
            call.seconds = time.monotonic() - call.began
            call.job_id = task_context.job_id.get()
            call.principal = current_principal().name
            if call.code == grpc.StatusCode.OK.name:
                # In the next step of the loop: gRPC sends the answer at the end of this one.
                asyncio.get_running_loop().call_soon(self._tell_end, call)
            else:  # what has been sent already
                self._tell_end(call)

    def _tell_end(self, call: Call) -> None:
        for observer in self._observers:
            try:
                observer.ends(call)
            except Exception:
                logger.exception("%s failed", type(observer).__name__)


def _name(method: str) -> str:
    return method.removeprefix("/")


def _id_of(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and _ACCEPTABLE_ID.fullmatch(value):
            return value
    return secrets.token_hex(8)


def note_job(message: Any) -> None:
    """Notes which job the present call is about: the one that ``message`` names, if that can be the id of one. Anything
    else stays out of the log."""
    job_id = getattr(message, "job_id", "")
    if isinstance(job_id, str) and _ACCEPTABLE_ID.fullmatch(job_id):
        task_context.job_id.set(job_id)


def _code(context: Context) -> str:
    code: Any = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else _CODES.get(code or 0, str(code))

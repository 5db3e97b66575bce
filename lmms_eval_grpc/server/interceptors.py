"""What happens around every call, outermost first: see :func:`build_interceptors`."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from lmms_eval_grpc.jobs.errors import InvalidRequest, ServiceError, StoreUnavailable, Violation
from lmms_eval_grpc.server.around import Around, Behaviour, Context, Decoder
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.errors import internal_status, status_of
from lmms_eval_grpc.server.limits import LimitStreams, LimitTime, StreamLimits

if TYPE_CHECKING:
    from lmms_eval_grpc.server.around import Details

logger = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
"""Metadata key under which a caller may name a call, to find it in the server's log."""

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OWN_SERVICE = "/lmms_eval_grpc."


def build_interceptors(args: ServerArgs) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors in their order."""
    streams = StreamLimits(args.max_watches, args.max_watches_per_client, args.max_watches_per_principal)
    return [MaskErrors(), LogCalls(), LimitStreams(streams), LimitTime(args.unary_timeout)]


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands for a request whose bytes are not a message of its type."""

    reason: str


class MaskErrors(Around):
    """Turns whatever a handler raises into a status. Of a bug the client learns an id, the log everything."""

    def decoder(self, decode: Decoder | None) -> Decoder | None:
        if decode is None:
            return None

        def decode_or_tell(data: bytes) -> Any:
            try:
                return decode(data)
            except Exception as error:
                return Undecodable(str(error))

        return decode_or_tell

    async def call(self, behaviour: Behaviour, request: Any, context: Context, details: Details) -> Any:
        try:
            if isinstance(request, Undecodable):
                raise InvalidRequest([Violation("", f"the request is not a message of its type: {request.reason}")])
            return await behaviour(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except ServiceError as error:
            if isinstance(error, StoreUnavailable):
                logger.error("%s: %s", details.method, error)
            await status_of(error).abort(context)
        except Exception as error:
            if isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError):
                logger.debug("%s: the client went away: %r", details.method, error)
                return None
            error_id = uuid.uuid4().hex[:12]
            logger.exception("%s: internal error %s", details.method, error_id)
            await internal_status(error_id).abort(context)


class LogCalls(Around):
    """One line per call when it is over, with the id that the caller gave it or a new one."""

    async def call(self, behaviour: Behaviour, request: Any, context: Context, details: Details) -> Any:
        started = time.monotonic()
        code = "OK"
        try:
            return await behaviour(request, context)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        except grpc.aio.AbortError:
            code = _code_name(context)
            raise
        except ServiceError as error:
            code = status_of(error).code.name
            raise
        except grpc.aio.BaseError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL.name
            raise
        finally:
            level = logging.INFO if details.method.startswith(_OWN_SERVICE) else logging.DEBUG
            logger.log(
                level,
                "method=%s code=%s ms=%.1f peer=%s request_id=%s",
                details.method,
                code,
                1000 * (time.monotonic() - started),
                context.peer(),
                _id_of(details),
            )


def _id_of(details: Details) -> str:
    for key, value in details.invocation_metadata or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _ACCEPTABLE_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex[:16]


def _code_name(context: Context) -> str:
    code: Any = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else str(code)

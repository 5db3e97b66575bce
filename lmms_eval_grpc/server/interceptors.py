"""What happens around every call, outermost first: see :func:`build_interceptors`."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from lmms_eval_grpc.jobs.errors import InvalidRequest, ServiceError, StoreUnavailable
from lmms_eval_grpc.server.around import AllAround, Around, Behaviour, Context
from lmms_eval_grpc.server.caps import check_caps
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.errors import internal_status, status_of
from lmms_eval_grpc.server.limits import OPEN_TO_ALL, LimitStreams, LimitTime, StreamLimits
from lmms_eval_grpc.server.observe import ObserveCalls

if TYPE_CHECKING:
    from lmms_eval_grpc.server.around import Handler

logger = logging.getLogger(__name__)

_OWN_SERVICES = "/lmms_eval_grpc."


def build_interceptors(
    args: ServerArgs, calls: ObserveCalls, guards: Sequence[Around], unary: Callable[[], None]
) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors in their order, as one. ``guards`` decide who may call; those that they refuse are logged, but
    hold nothing. ``unary`` is called when a call comes that is no stream."""
    # Streams that need no credentials are counted apart: nobody without any may take the places of those who have.
    streams = StreamLimits(args.max_watches, args.max_watches_per_client, args.max_watches_per_principal)
    limit_streams = LimitStreams(streams, StreamLimits(OPEN_TO_ALL, OPEN_TO_ALL))
    parts = [calls, MaskErrors(), *guards, limit_streams, LimitTime(args.unary_timeout), CheckCaps()]
    return [AllAround(parts, unknown=calls.note_unknown, unary=unary)]


class MaskErrors(Around):
    """Turns whatever a handler raises into a status. Of a bug the client learns an id, the log everything."""

    async def call(self, behaviour: Behaviour, request: Any, context: Context, method: str) -> Any:
        try:
            return await behaviour(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except ServiceError as error:
            if isinstance(error, StoreUnavailable):
                logger.error("%s: %s", method, error)
            await status_of(error).abort(context)
        except Exception as error:
            if isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError):
                logger.debug("%s: the client went away: %r", method, error)
                context.set_code(grpc.StatusCode.CANCELLED)
                return None
            error_id = uuid.uuid4().hex[:12]
            logger.exception("%s: internal error %s", method, error_id)
            await internal_status(error_id).abort(context)


class CheckCaps(Around):
    """Refuses requests that are larger than the table of bounds allows. What makes jobs is checked by the validator,
    which tells that together with all else that is wrong."""

    _CHECKED_BY_VALIDATOR = ("Evaluate", "MergeCheckpoint")

    def wrap(self, handler: Handler, method: str) -> Handler:
        own = method.startswith(_OWN_SERVICES) and method.rpartition("/")[2] not in self._CHECKED_BY_VALIDATOR
        return super().wrap(handler, method) if own else handler

    async def call(self, behaviour: Behaviour, request: Any, context: Context, method: str) -> Any:
        # A request of a stream that is no message is told by the outermost interceptor.
        if isinstance(request, Message) and (violations := check_caps(request)):
            raise InvalidRequest(violations)
        return await behaviour(request, context)

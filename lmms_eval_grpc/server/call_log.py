"""The log: what its lines tell, as text or as JSON, and the one line per call."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from lmms_eval_grpc.jobs import context
from lmms_eval_grpc.server.observe import Call
from lmms_eval_grpc.server.principals import current_principal

logger = logging.getLogger(__name__)


class LogCalls:
    """One line per call when it is over: at ``info`` those of this service, at ``debug`` health and reflection."""

    def begins(self, call: Call) -> None:
        pass

    def ends(self, call: Call) -> None:
        level = logging.INFO if call.of_this_service else logging.DEBUG
        if not logger.isEnabledFor(level):
            return
        milliseconds = round(1000 * call.seconds, 1)
        fields = {"method": f"/{call.method}", "code": call.code, "ms": milliseconds, "peer": call.peer}
        if call.reason:
            fields["reason"] = call.reason
        logger.log(
            level,
            "method=/%s code=%s ms=%.1f peer=%s request_id=%s",
            call.method,
            call.code,
            milliseconds,
            call.peer,
            call.request_id,
            extra={"fields": fields},
        )

    def unknown(self) -> None:
        logger.debug("a method that there is none of was called")


class AddContext(logging.Filter):
    """Notes on each record, as ``context``, its request, job, principal and trace, where they are known."""

    def filter(self, record: logging.LogRecord) -> bool:
        request_id, owner = context.request_id.get(), context.owner.get()
        principal = owner or (current_principal().name if request_id else "")
        told = {
            "request_id": request_id,
            "job_id": context.job_id.get(),
            "principal": principal,
            "trace_id": context.trace_parent.get()[3:35],
        }
        record.context = {key: value for key, value in told.items() if value}
        return True


class TextFormatter(logging.Formatter):
    """Time, severity, logger and message, then what the line belongs to, unless the message says it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        belongs: dict[str, str] = getattr(record, "context", {})
        return " ".join([line, *(f"{key}={value}" for key, value in belongs.items() if f"{key}={value}" not in line)])


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``ts`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, what the line belongs to
    (``request_id``, ``job_id``, ``principal``, ``trace_id``), the fields of a call, and ``exception``, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "context", {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)

"""What decides who may call what, and writes it down, as the settings name it."""

from __future__ import annotations

from contextlib import AsyncExitStack

from lmms_eval_grpc.server.around import Around
from lmms_eval_grpc.server.auth.access import Access
from lmms_eval_grpc.server.auth.audit_log import AuditLog
from lmms_eval_grpc.server.auth.entries import BadEntry
from lmms_eval_grpc.server.auth.interceptor import Audit, Authenticate
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.state_dir import ServerStartError


def make_guards(args: ServerArgs, cleanup: AsyncExitStack) -> list[Around]:
    """The guards of one server, outermost first.

    Args:
        args: its settings.
        cleanup: gets what is to be undone after the server's end.

    Raises:
        ServerStartError: the access list cannot be used, or the audit log cannot be written.
    """
    access = Access(args.access_file)
    try:
        access.start()
    except BadEntry as error:
        raise ServerStartError(f"access_file: {error}") from error
    cleanup.push_async_callback(access.stop)
    if args.audit_log is None:
        return [Authenticate(access)]
    log = AuditLog(args.audit_log)
    try:
        log.open()
    except OSError as error:
        raise ServerStartError(f"audit_log: {args.audit_log} cannot be written: {error.strerror}") from error
    cleanup.callback(log.close)
    return [Authenticate(access, log), Audit(log)]

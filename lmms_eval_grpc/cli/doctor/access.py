"""Who may call the server, and which folders their requests may touch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok, warning
from lmms_eval_grpc.cli.doctor.setup import Setup
from lmms_eval_grpc.server.auth.access_file import read_entries
from lmms_eval_grpc.server.auth.entries import BadEntry


def check_access(setup: Setup) -> Iterator[Finding]:
    """Whether the access list can be used and lets anybody in, and the audit log can be written."""
    if (path := setup.args.access_file) is not None:
        yield _check_list(path)
    if (log := setup.args.audit_log) is not None:
        place = log if log.exists() else next(place for place in log.absolute().parents if place.exists())
        if os.access(place, os.W_OK) and not log.is_dir():
            yield ok("audit log", str(log))
        else:
            yield failure("audit log", f"audit_log: {log} cannot be written", "mend the path or its permissions")


def check_roots(setup: Setup) -> Iterator[Finding]:
    """Whether the folders that bound what requests may touch are there."""
    args = setup.args
    roots = [("checkpoint_root", root) for root in args.checkpoint_root]
    roots += [("output_root", root) for root in args.output_root]
    for name, root in roots:
        if not root.is_dir():
            yield failure("roots", f"{name}: {root} is not a folder", "mend the path, or make the folder")
        elif name == "output_root" and not os.access(root, os.W_OK | os.X_OK):
            yield failure("roots", f"output_root: {root} cannot be written", "mend its permissions")
        else:
            yield ok("roots", f"{name}: {root}")


def _check_list(path: Path) -> Finding:
    try:
        entries = read_entries(path)
    except BadEntry as error:
        return failure("access list", f"access_file: {error}", "mend it: the server does not start with it")
    now = datetime.now(UTC)
    valid = [entry for entry in entries if entry.is_valid(now)]
    if not valid:
        return warning("access list", f"{path}: lets nobody in", "lmms-eval-grpc token create adds to it")
    told = ", ".join(sorted({f"{entry.name} ({entry.role.word})" for entry in valid})[:20])
    return ok("access list", f"{path}: {len(valid)} that are valid, {len(entries) - len(valid)} expired: {told}")

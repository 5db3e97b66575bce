"""``gc``: removes ended jobs with their files, and what crashes have left behind."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.cli.words import format_bytes, to_document
from lmms_eval_grpc.v1.admin_service_pb2 import CollectGarbageResponse


def run(args: argparse.Namespace, output: Output) -> int:
    """Asks the server, or with ``--state-dir`` does it here, for a folder whose server does not run."""
    if args.state_dir is not None:
        collected = _collect_here(args)
    else:
        with connect(args) as client:
            collected = client.collect_garbage(keep=args.keep, older_than=args.older_than, dry_run=args.dry_run)
    if output.as_json:
        output.document(to_document(collected))
        return ExitCode.OK
    removed = "would be removed" if args.dry_run else "removed"
    for job_id in collected.job_ids:
        output.line(f"job {job_id}")
    for name in collected.leftovers:
        output.line(f"left over: {name}")
    output.line(
        f"{len(collected.job_ids)} jobs and {len(collected.leftovers)} leftovers {removed},"
        f" {format_bytes(collected.freed_bytes)}"
    )
    return ExitCode.OK


def _collect_here(args: argparse.Namespace) -> CollectGarbageResponse:
    # Only now: with a server at hand, none of this is needed.
    from lmms_eval_grpc.jobs.errors import StoreUnavailable
    from lmms_eval_grpc.server.config_sources import load_args
    from lmms_eval_grpc.server.offline import collect_garbage
    from lmms_eval_grpc.server.settings import ConfigError
    from lmms_eval_grpc.server.state_dir import ServerStartError

    try:
        kept = load_args().max_completed_jobs
        collected = collect_garbage(
            args.state_dir, args.keep, args.older_than, dry_run=args.dry_run, max_finished_jobs=kept
        )
    except (ConfigError, ServerStartError, StoreUnavailable) as error:
        raise UsageError(str(error)) from error
    return CollectGarbageResponse(
        job_ids=collected.job_ids, leftovers=collected.leftovers, freed_bytes=collected.freed_bytes
    )

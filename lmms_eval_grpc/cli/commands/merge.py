"""``merge``: merges a sharded checkpoint, on the server or here."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from lmms_eval_grpc.cli.commands.submit import show_submitted
from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.console import reporting, start_log
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.requirements import require
from lmms_eval_grpc.cli.words import format_bytes
from lmms_eval_grpc.engine.api import EvaluationCancelled


def run(args: argparse.Namespace, output: Output) -> int:
    """Queues a job and prints its id, alone when the output is no terminal; with ``--local`` does the work itself."""
    if args.local:
        require("merge --local")
        return _merge_here(args, output)
    with connect(args) as client:
        submitted = client.merge_checkpoint(
            args.checkpoint,
            args.output_path,
            "ema" if args.ema else "regular",
            config_path=args.config_path,
            max_shard_bytes=args.max_shard_size,
            labels=dict(args.label),
            priority=args.priority,
            request_id=args.request_id,
            wait=False,
        )
        return show_submitted(client, submitted, output, watch=args.watch)


def _merge_here(args: argparse.Namespace, output: Output) -> int:
    start_log("WARNING")
    with reporting(output, "merge") as reporter:
        # Seconds of imports: whoever waits has seen by now that something happens.
        from lmms_eval_grpc.engine.checkpoints.merge import merge_checkpoint

        try:
            merged = merge_checkpoint(
                Path(args.checkpoint).expanduser().absolute(),
                Path(args.output_path).expanduser().absolute() if args.output_path else None,
                reporter,
                ema=args.ema,
                config_path=Path(args.config_path).expanduser().absolute() if args.config_path else None,
                max_shard_bytes=args.max_shard_size or 0,
            )
        except EvaluationCancelled:
            output.remark("interrupted; nothing was written")
            return ExitCode.INTERRUPTED
    if output.as_json:
        output.document(asdict(merged))
    else:
        output.line(f"merged checkpoint: {merged.folder} ({format_bytes(merged.size_bytes)})")
    return ExitCode.OK

"""``submit``: queues an evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from lmms_eval_grpc.cli.commands.watch import follow_job
from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.words import to_document
from lmms_eval_grpc.client import EvalClient

PLAIN_FLAGS = (
    "model",
    "model_args",
    "tasks",
    "num_fewshot",
    "batch_size",
    "max_batch_size",
    "device",
    "limit",
    "offset",
    "gen_kwargs",
    "log_samples",
    "predict_only",
    "num_gpus",
    "output_dir",
    "seed",
    "repeats",
    "system_instruction",
    "apply_chat_template",
    "fewshot_as_multiturn",
    "reasoning_tags",
    "force_simple",
    "trust_remote_code",
    "use_cache",
    "agentic_trace_mode",
    "baseline",
    "max_tokens",
    "max_error_share",
    "run_timeout",
    "stall_timeout",
    "include_path",
    "process_with_media",
    "bootstrap_iters",
    "override_tasks",
    "timezone",
    "compat",
    "merge",
    "track",
    "priority",
    "request_id",
    "validate_only",
)
"""Flags that the client takes under the same name."""


def run(args: argparse.Namespace, output: Output) -> int:
    """Prints the job's id, alone when the output is no terminal."""
    given: dict[str, Any] = {name: getattr(args, name) for name in PLAIN_FLAGS if getattr(args, name) is not None}
    given |= _retry_policy(args)
    with connect(args) as client:
        submitted = client.evaluate(**given, labels=dict(args.label))
        if args.validate_only:
            if output.as_json:
                output.document(submitted)
            else:
                output.line(submitted["message"])
            return ExitCode.OK
        return show_submitted(client, submitted, output, watch=args.watch)


def show_submitted(client: EvalClient, submitted: Mapping[str, Any], output: Output, *, watch: bool) -> int:
    """Tells of a job that was just queued, or follows it to its end."""
    job_id = submitted["job_id"]
    if not output.as_json:
        output.line(submitted["message"] if output.is_terminal else job_id)
    if watch:
        return follow_job(client, job_id, output)
    if output.as_json:
        output.document(to_document(client.get(job_id)))
    elif output.is_terminal:
        output.remark(f"follow it with: lmms-eval-grpc watch {job_id}")
    return ExitCode.OK


def _retry_policy(args: argparse.Namespace) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    if args.max_attempts is not None:
        policy["max_attempts"] = args.max_attempts
    if args.retry_on is not None:
        policy["retry_on"] = args.retry_on
    return {"retry_policy": policy} if policy else {}

"""The flags of ``submit``: those of an evaluation, and those of a job."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli import arguments, flags_evaluation
from lmms_eval_grpc.cli.flags_evaluation import spell

PLACE = " on the server"
RETRIABLE = ("worker_died", "out_of_memory", "stalled", "timeout", "evaluation", "internal")
"""Kinds of failure that another attempt may mend."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declares them all. A flag that is not given stays None, and leaves its default to the server."""
    flags_evaluation.add_subject(parser.add_argument_group("what to evaluate"), required=True, place=PLACE)
    samples = parser.add_argument_group("which samples, and how")
    flags_evaluation.add_samples(samples, log_samples="yes", place=PLACE)
    flags_evaluation.add_media(samples)
    _add_scoring(samples)
    flags_evaluation.add_prompt(parser.add_argument_group("prompts and generation"))
    running = parser.add_argument_group("where and how to run")
    flags_evaluation.add_running(running, batch_size="auto", place=PLACE)
    _add_place(running)
    _add_job(parser.add_argument_group("the job"))


def _add_scoring(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        *spell("bootstrap_iters"), type=int, metavar="N", help="replicates of a bootstrap; 0 for none (default: 1000)"
    )
    group.add_argument(
        "--compat",
        action="extend",
        type=arguments.parse_names,
        metavar="NAME",
        help="behaviours of lmms-eval to keep where they are corrected: fewshot_stream; may be repeated",
    )
    group.add_argument(
        *spell("override_tasks"),
        action="store_true",
        default=None,
        help="of tasks of one name the one in the last folder counts, not the first",
    )


def _add_place(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", metavar="DEVICE", help="cuda:1 for that one, cuda or cpu for any (default: any)")
    group.add_argument(
        *spell("output_path", "output_dir"),
        dest="output_dir",
        metavar="DIR",
        help="folder on the server for results files (default: the job's own)",
    )
    flags_evaluation.add_timezone(group)
    group.add_argument(
        *spell("run_timeout"),
        type=arguments.parse_duration,
        metavar="TIME",
        help="longest run: 90, 15m, 2h (default: none)",
    )
    group.add_argument(
        *spell("stall_timeout"),
        type=arguments.parse_duration,
        metavar="TIME",
        help="longest time without progress, such as a sample answered, before the worker counts as hung and is killed"
        " (default: the server's)",
    )


def add_queueing(group: argparse._ArgumentGroup) -> None:
    """What any job that is queued has."""
    group.add_argument(
        "--label",
        action="append",
        type=arguments.parse_label,
        default=[],
        metavar="KEY=VALUE",
        help="a label of your own; may be repeated",
    )
    group.add_argument("--priority", type=int, default=0, metavar="N", help="higher runs first (default: 0)")
    group.add_argument(
        *spell("max_attempts"),
        type=int,
        metavar="N",
        help="attempts in all, 1 to 10, when one fails; the next goes on from the recorded answers (default: 1, or 3"
        " with --retry_on)",
    )
    group.add_argument(
        *spell("retry_on"),
        action="append",
        choices=RETRIABLE,
        metavar="FAILURE",
        help=f"a failure after which another attempt is made; may be repeated: {', '.join(RETRIABLE)}"
        " (default: worker_died, out_of_memory, stalled)",
    )
    group.add_argument(
        *spell("request_id"),
        metavar="UUID",
        help="idempotency key: submitting again with the same one returns the first job (default: a new one)",
    )
    group.add_argument("--watch", action="store_true", help="follow the job to its end; the exit code is its outcome")


def _add_job(group: argparse._ArgumentGroup) -> None:
    add_queueing(group)
    group.add_argument(
        "--track",
        action="append",
        metavar="TRACKER",
        help="tracker that the service tells the results as they come: tensorboard:FOLDER (on the server),"
        " wandb:PROJECT or mlflow:EXPERIMENT; the labels run and step say of which run and at which step; may be"
        " repeated",
    )
    group.add_argument(*spell("validate_only"), action="store_true", help="only check the request; queue nothing")

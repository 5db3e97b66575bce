"""Flags of the commands on jobs and the queue. ``merge`` is one of them: what it queues is a job."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmms_eval_grpc.cli import arguments, flags_submit
from lmms_eval_grpc.cli.flags_evaluation import spell


def add_job(parser: argparse.ArgumentParser) -> None:
    """Which one: all that ``job`` and ``watch`` ask, and the first that others do."""
    parser.add_argument("job_id", metavar="JOB", help="the job's id")


def add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        action="extend",
        type=arguments.parse_states,
        default=[],
        metavar="STATE",
        help=f"only jobs in this state; may be repeated, or a list with commas ({', '.join(arguments.STATES)})",
    )
    parser.add_argument(
        "--label",
        action="append",
        type=arguments.parse_label,
        default=[],
        metavar="KEY=VALUE",
        help="only jobs with this label; may be repeated, all must match",
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--owner", default="", metavar="NAME", help="only jobs that NAME submitted")
    whose.add_argument("--mine", action="store_true", help="only jobs that you submitted")
    parser.add_argument(
        *spell("limit_count", short="n"),
        type=arguments.parse_count,
        default=20,
        metavar="N",
        help="the newest N jobs (default: 20)",
    )
    parser.add_argument("--full", action="store_true", help="with --json: with results")


def add_cancel(parser: argparse.ArgumentParser) -> None:
    add_job(parser)
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")


def add_queue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with every change, until interrupted")


def add_pause(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for those who look at the queue")


def add_drain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *spell("finish_queued"),
        action="store_true",
        help="run the queued jobs too; they stay for the next server otherwise",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.parse_duration,
        metavar="TIME",
        help="how long running jobs get, such as 90s, 15m or 2h; what still runs then continues at the next start"
        " (default: as long as they take)",
    )


def add_priority(parser: argparse.ArgumentParser) -> None:
    add_job(parser)
    parser.add_argument("priority", type=int, metavar="N", help="higher runs first")


def add_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep",
        type=arguments.parse_natural,
        metavar="N",
        help="ended jobs to keep whatever their age, newest first (default: none with --older-than, otherwise as many"
        " as the server is configured to keep)",
    )
    parser.add_argument(
        *spell("older_than"),
        type=arguments.parse_duration,
        metavar="TIME",
        help="remove only jobs that ended longer ago than this, such as 12h or 7d",
    )
    parser.add_argument(*spell("dry_run"), action="store_true", help="only tell what would be removed")
    parser.add_argument(
        *spell("state_dir"),
        type=Path,
        metavar="DIR",
        help="work on the state folder of a server that does not run; asks no server",
    )


def add_samples(parser: argparse.ArgumentParser) -> None:
    add_job(parser)
    parser.add_argument("--task", default="", metavar="TASK", help="only samples of this task")
    parser.add_argument("--errors", action="store_true", help="only samples that ended in an error")
    parser.add_argument("-n", "--count", type=arguments.parse_count, metavar="N", help="stop after N samples")
    parser.add_argument("-f", "--follow", action="store_true", help="go on while the job runs")
    parser.add_argument(
        "--jsonl", dest="json", action="store_true", default=argparse.SUPPRESS, help="the same as --json"
    )


def add_logs(parser: argparse.ArgumentParser) -> None:
    add_job(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on while the job runs")
    parser.add_argument(
        "--tail", type=arguments.parse_count, metavar="BYTES", help="start this many bytes before the end"
    )


def add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the sharded checkpoint, on the server")
    group = parser.add_argument_group("what to merge")
    group.add_argument(
        *spell("output_path", "output"),
        metavar="DIR",
        help="folder to create (default: merged-NAME beside the checkpoint NAME)",
    )
    group.add_argument("--ema", action="store_true", help="the moving average of the weights instead of the weights")
    group.add_argument(
        *spell("config_path"),
        metavar="DIR",
        help="folder with config.json, tokenizer and processor (default: looked for in the checkpoint and above it)",
    )
    group.add_argument(
        *spell("max_shard_size"),
        type=arguments.parse_bytes,
        metavar="SIZE",
        help="largest file of weights to write, such as 2GB (default: 5GB)",
    )
    group.add_argument("--local", action="store_true", help="merge here, without a server")
    flags_submit.add_queueing(parser.add_argument_group("the job"))

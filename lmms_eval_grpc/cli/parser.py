"""The grammar of the command line. Declarations only; needs nothing beyond the standard library, so help is instant."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

from lmms_eval_grpc import __version__
from lmms_eval_grpc.cli import arguments, flags_submit
from lmms_eval_grpc.cli.exit_codes import describe_exit_codes

ADDRESS_VARIABLE = "LMMS_EVAL_GRPC_ADDRESS"
DEFAULT_ADDRESS = "localhost:50051"
TASK_KINDS = ("task", "group", "tag")

DESCRIPTION = "Evaluation of large multimodal models as a service: submit checkpoints, watch the scores come back."

NOTES = f"""\
In names of flags, _ and - are the same. --json prints the service's messages as JSON, with the names of the .proto
files: one document, or one per line where the output is a stream (watch, samples, logs, queue --follow). As in all
protobuf JSON, 64-bit integers are strings and a number that is undefined is "NaN". Errors go to stderr, with --json as
JSON too. The address of the server can stand in {ADDRESS_VARIABLE}."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each flag in one spelling, although ``_`` and ``-`` are both taken."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        spellings: dict[str, str] = {}
        for option in action.option_strings:
            spellings.setdefault(option.replace("-", "_"), option)
        if len(spellings) == len(action.option_strings):
            return super()._format_action_invocation(action)
        shown = argparse.Action(
            list(spellings.values()), action.dest, nargs=action.nargs, metavar=action.metavar, choices=action.choices
        )
        return super()._format_action_invocation(shown)


class Parser(argparse.ArgumentParser):
    """argparse with this command line's manners: no abbreviated flags (they break when flags are added)."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **options)  # type: ignore[arg-type]


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for ``argv``.

    Only when ``argv`` asks for ``serve`` are the server's flags declared, because their module is the server's.
    """
    parser = Parser(prog="lmms-eval-grpc", description=DESCRIPTION, epilog=f"{describe_exit_codes()}\n\n{NOTES}")
    parser.add_argument("--version", action="version", version=f"lmms-eval-grpc {__version__}")
    _add_common(parser, top=True)
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands", parser_class=Parser)
    for name, (summary, declare) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, epilog=describe_exit_codes())
        if name != "serve":
            _add_common(command, top=False)
            declare(command)
        elif _asks_for_serve(argv):
            declare(command)
    return parser


def _asks_for_serve(argv: Sequence[str]) -> bool:
    """Whether the command (the first word that is no flag and no flag's value) is ``serve``."""
    words = iter(argv)
    for word in words:
        if word in ("--address", "-a"):
            next(words, None)
        elif not word.startswith("-"):
            return word == "serve"
    return False


def _add_common(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """Flags of every command, which may stand before or after its name."""

    def default(value: object) -> object:
        # A default of the sub-command would overwrite what was given before its name.
        return value if top else argparse.SUPPRESS

    group = parser.add_argument_group("connection and output")
    group.add_argument(
        "-a",
        "--address",
        metavar="HOST:PORT",
        default=default(os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS),
        help=f"the server; also in {ADDRESS_VARIABLE} (default: {DEFAULT_ADDRESS})",
    )
    group.add_argument("--json", action="store_true", default=default(False), help="print JSON, for programs")
    group.add_argument(
        "--plain",
        action="store_true",
        default=default(False),
        help="plain lines, also on a terminal with rich installed",
    )


def _declare_serve(parser: argparse.ArgumentParser) -> None:
    from lmms_eval_grpc.server import config

    config.add_flags(parser)


def _declare_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_id", metavar="JOB", help="the job's id")


def _declare_submit(parser: argparse.ArgumentParser) -> None:
    flags_submit.add_flags(parser)


def _declare_jobs(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        *flags_submit.spell("limit_count", short="n"),
        type=arguments.parse_count,
        default=20,
        metavar="N",
        help="the newest N jobs (default: 20)",
    )
    parser.add_argument("--full", action="store_true", help="with --json: with results")


def _declare_cancel(parser: argparse.ArgumentParser) -> None:
    _declare_job(parser)
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")


def _declare_queue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with every change, until interrupted")


def _declare_samples(parser: argparse.ArgumentParser) -> None:
    _declare_job(parser)
    parser.add_argument("--task", default="", metavar="TASK", help="only samples of this task")
    parser.add_argument("--errors", action="store_true", help="only samples that ended in an error")
    parser.add_argument("-n", "--count", type=arguments.parse_count, metavar="N", help="stop after N samples")
    parser.add_argument("-f", "--follow", action="store_true", help="go on while the job runs")
    parser.add_argument(
        "--jsonl", dest="json", action="store_true", default=argparse.SUPPRESS, help="the same as --json"
    )


def _declare_logs(parser: argparse.ArgumentParser) -> None:
    _declare_job(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on while the job runs")
    parser.add_argument(
        "--tail", type=arguments.parse_count, metavar="BYTES", help="start this many bytes before the end"
    )


def _declare_tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "filter", nargs="?", default="", metavar="FILTER", help="a prefix of the name, or a pattern such as '*mmmu*'"
    )
    parser.add_argument(
        "--kind", action="append", choices=TASK_KINDS, default=[], help="only this kind; may be repeated"
    )


def _declare_nothing(parser: argparse.ArgumentParser) -> None:
    """For commands without arguments of their own."""


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "serve": ("Run the server.", _declare_serve),
    "submit": ("Queue an evaluation; print the job's id.", _declare_submit),
    "watch": ("Follow a job to its end, then show its results.", _declare_job),
    "jobs": ("List jobs, newest first.", _declare_jobs),
    "job": ("Show everything about one job.", _declare_job),
    "cancel": ("Cancel a job, queued or running.", _declare_cancel),
    "queue": ("Show what runs and what waits.", _declare_queue),
    "samples": ("Print a job's samples: prompts, answers, scores.", _declare_samples),
    "logs": ("Print the log of a job's worker.", _declare_logs),
    "tasks": ("List the tasks, groups and tags that can be evaluated.", _declare_tasks),
    "models": ("List the model backends, and what to install for those that are not available.", _declare_nothing),
    "info": ("Describe the server: versions, devices, limits.", _declare_nothing),
    "version": ("Print the versions installed here; asks no server.", _declare_nothing),
}

"""The grammar of the command line: its commands, and the flags that all of them have.

What a command has beyond those is in the ``flags_…`` modules, and here where it is little. Declarations only; needs
nothing beyond the standard library, so help is instant.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from lmms_eval_grpc import __version__
from lmms_eval_grpc.cli import arguments, flags_certs, flags_eval, flags_jobs, flags_runs, flags_submit, flags_token
from lmms_eval_grpc.cli.argument_parser import Parser
from lmms_eval_grpc.cli.exit_codes import describe_exit_codes
from lmms_eval_grpc.cli.flags_evaluation import spell

ADDRESS_VARIABLE = "LMMS_EVAL_GRPC_ADDRESS"
DEFAULT_ADDRESS = "localhost:50051"
TLS_FLAGS = {
    "ca": ("FILE", "PEM file with the authorities that may have signed the server's certificate"),
    "cert": ("FILE", "PEM file with your certificate, for a server that asks for one"),
    "key": ("FILE", "PEM file with the private key of --cert"),
    "server_name": ("NAME", "the name that the server's certificate must be for (default: the host of the address)"),
}
"""Metavar and help. Each can stand in ``LMMS_EVAL_GRPC_`` and its name, too."""
TASK_KINDS = ("task", "group", "tag")

_WITH_SETTINGS = ("serve", "doctor")
"""Commands whose flags are the server's settings."""

SHELLS = ("bash", "zsh", "fish")
NAMES = ("jobs", "models", "tasks")
"""What the server can name for completion."""

_SWITCHES = ("--json", "--plain", "--plaintext-token", "--plaintext_token")
"""Flags of every command that take no value."""

DESCRIPTION = "Evaluation of large multimodal models as a service: submit checkpoints, watch the scores come back."

NOTES = f"""\
In names of flags, _ and - are the same. --json prints the service's messages as JSON, with the names of the .proto
files: one document, or one per line where the output is a stream (watch, samples, logs, queue --follow). As in all
protobuf JSON, 64-bit integers are strings and a number that is undefined is "NaN". Errors go to stderr, with --json as
JSON too. The address of the server can stand in {ADDRESS_VARIABLE}."""


class _Address(argparse.Action):
    """Keeps the address, and that it was given: ``doctor`` asks no server otherwise."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.address = values
        namespace.address_given = True


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for ``argv``.

    Only when ``argv`` asks for ``serve`` or ``doctor`` are the server's flags declared, because their module is the
    server's.
    """
    parser = Parser(prog="lmms-eval-grpc", description=DESCRIPTION, epilog=f"{describe_exit_codes()}\n\n{NOTES}")
    parser.add_argument("--version", action="version", version=f"lmms-eval-grpc {__version__}")
    _add_common(parser, top=True)
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands", parser_class=Parser)
    for name, (summary, declare) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, epilog=describe_exit_codes())
        if name != "serve":
            _add_common(command, top=False)
        if name not in _WITH_SETTINGS or _asks_for_settings(argv):
            declare(command)
    return parser


def _asks_for_settings(argv: Sequence[str]) -> bool:
    place = _command_place(argv)
    return place < len(argv) and argv[place] in _WITH_SETTINGS


def name_command(argv: Sequence[str]) -> list[str]:
    """``argv`` with ``eval`` where a command's name should be and a flag is, as lmms-eval has it."""
    place = _command_place(argv)
    flag = place < len(argv) and argv[place].startswith("-") and argv[place] not in ("-h", "--help", "--version")
    return [*argv[:place], *(["eval"] if flag else []), *argv[place:]]


def _command_place(argv: Sequence[str]) -> int:
    """Where the command's name should be: after the flags that all commands have."""
    place = 0
    while place < len(argv):
        word = argv[place]
        if word in ("-a", *_CONNECTION_FLAGS):
            place += 2
        elif word in _SWITCHES or word.partition("=")[0] in _CONNECTION_FLAGS:
            place += 1
        else:
            break
    return min(place, len(argv))


def _add_common(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """Flags of every command, which may stand before or after its name."""

    def default(value: object) -> object:
        # A default of the sub-command would overwrite what was given before its name.
        return value if top else argparse.SUPPRESS

    group = parser.add_argument_group("connection and output")
    group.add_argument(
        "-a",
        "--address",
        action=_Address,
        metavar="HOST:PORT",
        default=default(os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS),
        help=f"the server; also in {ADDRESS_VARIABLE} (default: {DEFAULT_ADDRESS})",
    )
    for name, (metavar, text) in TLS_FLAGS.items():
        group.add_argument(
            *spell(name),
            metavar=metavar,
            default=default(None),
            help=f"{text}; also in LMMS_EVAL_GRPC_{name.upper()}",
        )
    group.add_argument(
        *spell("token_file"),
        metavar="FILE",
        default=default(None),
        help="file that holds the token to show the server; also in LMMS_EVAL_GRPC_TOKEN_FILE, or the token itself in"
        " LMMS_EVAL_GRPC_TOKEN",
    )
    group.add_argument(
        *spell("plaintext_token"),
        action="store_true",
        default=default(None),
        help="send the token also without encryption over a network",
    )
    group.add_argument("--json", action="store_true", default=default(False), help="print JSON, for programs")
    group.add_argument(
        "--plain",
        action="store_true",
        default=default(False),
        help="plain lines, also on a terminal with rich installed",
    )


def _declare_serve(parser: argparse.ArgumentParser) -> None:
    from lmms_eval_grpc.server import config_sources

    config_sources.add_flags(parser)


def _declare_tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "filter",
        nargs="?",
        default="",
        metavar="FILTER",
        help="a prefix of the name, or a pattern such as '*mmmu*'; or list, groups, tags or subtasks, which list all, "
        "or all of a kind, of what is installed here",
    )
    parser.add_argument(
        "--kind", action="append", choices=TASK_KINDS, default=[], help="only this kind; may be repeated"
    )
    _declare_local(parser)
    parser.add_argument(
        *spell("include_path"),
        action="extend",
        type=arguments.parse_names,
        default=[],
        metavar="DIR",
        help="folder with more task YAML files; asks no server; may be repeated",
    )


def _declare_local(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--local", action="store_true", help="what is installed here; asks no server")


def _declare_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=SHELLS, help="the shell to write for")
    parser.add_argument(
        "--names", choices=NAMES, help="instead print names that the server knows, one a line; the scripts ask so"
    )


def _declare_nothing(parser: argparse.ArgumentParser) -> None:
    """For commands without arguments of their own."""


_CONNECTION_FLAGS = ("--address", *(spelling for name in (*TLS_FLAGS, "token_file") for spelling in spell(name)))
_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "serve": ("Run the server.", _declare_serve),
    "eval": ("Evaluate here, without a server, by lmms-eval's flags.", flags_eval.add_flags),
    "score": ("Score the stored responses of a run anew, without a model.", flags_runs.add_score),
    "compare": ("Say which of two runs is better, or that there is not enough evidence.", flags_runs.add_compare),
    "power": ("Say how many documents show a difference.", flags_runs.add_power),
    "submit": ("Queue an evaluation; print the job's id.", flags_submit.add_flags),
    "merge": ("Merge a sharded checkpoint into one that from_pretrained loads.", flags_jobs.add_merge),
    "watch": ("Follow a job to its end, then show its results.", flags_jobs.add_job),
    "jobs": ("List jobs, newest first.", flags_jobs.add_jobs),
    "job": ("Show everything about one job.", flags_jobs.add_job),
    "cancel": ("Cancel a job, queued or running.", flags_jobs.add_cancel),
    "queue": ("Show what runs and what waits.", flags_jobs.add_queue),
    "top": ("Watch devices, queue and recent scores, live on the terminal.", _declare_nothing),
    "pause": ("Start no further jobs; those that run go on.", flags_jobs.add_pause),
    "resume": ("Start jobs again.", _declare_nothing),
    "priority": ("Move a queued job within the queue.", flags_jobs.add_priority),
    "drain": ("Take no new jobs, and stop the server once its work is done.", flags_jobs.add_drain),
    "gc": ("Remove ended jobs with their files, and what crashes have left behind.", flags_jobs.add_gc),
    "samples": ("Print a job's samples: prompts, answers, scores.", flags_jobs.add_samples),
    "logs": ("Print the log of a job's worker.", flags_jobs.add_logs),
    "tasks": ("List the tasks, groups and tags that can be evaluated.", _declare_tasks),
    "models": ("List the model backends, and what to install for those that are not available.", _declare_local),
    "info": ("Describe the server: versions, devices, limits.", _declare_nothing),
    "token": ("Say who may call a server, and what they may do.", flags_token.add_flags),
    "certs": ("Make certificates for TLS, for development and small teams.", flags_certs.add_flags),
    "doctor": ("Check whether a server can run here, or with --address one that runs; say what to do.", _declare_serve),
    "completion": ("Print the script that completes this command line in a shell.", _declare_completion),
    "version": ("Print the versions installed here; asks no server.", _declare_nothing),
}

"""The grammar of the command line. Declarations only; needs nothing beyond the standard library, so help is instant."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lmms_eval_grpc import __version__
from lmms_eval_grpc.cli import arguments, flags_certs, flags_eval, flags_runs, flags_submit, flags_token
from lmms_eval_grpc.cli.exit_codes import ExitCode, describe_exit_codes
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


class _Address(argparse.Action):
    """Keeps the address, and that it was given: ``doctor`` asks no server otherwise."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.address = values
        namespace.address_given = True


class _Wrong(list[str]):
    """In place of a value that is refused: nothing reads it, but lists are extended by it."""


class Parser(argparse.ArgumentParser):
    """argparse with this command line's manners: no abbreviated flags (they break when flags are added), and all values
    that are refused are told at once."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **options)  # type: ignore[arg-type]
        self._faults: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed = super().parse_known_args(args, namespace)
        if self._faults:
            self.error(self._faults.pop())
        return parsed

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and where to look; all the flags of ``eval`` would hide it."""
        lines = [f"{self.prog}: error: {fault}" for fault in (*self._faults, message)]
        self.exit(ExitCode.USAGE, "\n".join([*lines, f"see {self.prog} --help\n"]))

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            self._faults.append(str(error))
            return _Wrong()

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            if not isinstance(value, _Wrong):
                super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if isinstance(action, argparse._SubParsersAction):  # what its arguments are depends on it
                raise
            self._faults.append(str(error))


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


def _declare_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_id", metavar="JOB", help="the job's id")


def _declare_submit(parser: argparse.ArgumentParser) -> None:
    flags_submit.add_flags(parser)


def _declare_merge(parser: argparse.ArgumentParser) -> None:
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


def _declare_cancel(parser: argparse.ArgumentParser) -> None:
    _declare_job(parser)
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")


def _declare_queue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with every change, until interrupted")


def _declare_pause(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for those who look at the queue")


def _declare_drain(parser: argparse.ArgumentParser) -> None:
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


def _declare_priority(parser: argparse.ArgumentParser) -> None:
    _declare_job(parser)
    parser.add_argument("priority", type=int, metavar="N", help="higher runs first")


def _declare_gc(parser: argparse.ArgumentParser) -> None:
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
    "submit": ("Queue an evaluation; print the job's id.", _declare_submit),
    "merge": ("Merge a sharded checkpoint into one that from_pretrained loads.", _declare_merge),
    "watch": ("Follow a job to its end, then show its results.", _declare_job),
    "jobs": ("List jobs, newest first.", _declare_jobs),
    "job": ("Show everything about one job.", _declare_job),
    "cancel": ("Cancel a job, queued or running.", _declare_cancel),
    "queue": ("Show what runs and what waits.", _declare_queue),
    "top": ("Watch devices, queue and recent scores, live on the terminal.", _declare_nothing),
    "pause": ("Start no further jobs; those that run go on.", _declare_pause),
    "resume": ("Start jobs again.", _declare_nothing),
    "priority": ("Move a queued job within the queue.", _declare_priority),
    "drain": ("Take no new jobs, and stop the server once its work is done.", _declare_drain),
    "gc": ("Remove ended jobs with their files, and what crashes have left behind.", _declare_gc),
    "samples": ("Print a job's samples: prompts, answers, scores.", _declare_samples),
    "logs": ("Print the log of a job's worker.", _declare_logs),
    "tasks": ("List the tasks, groups and tags that can be evaluated.", _declare_tasks),
    "models": ("List the model backends, and what to install for those that are not available.", _declare_local),
    "info": ("Describe the server: versions, devices, limits.", _declare_nothing),
    "token": ("Say who may call a server, and what they may do.", flags_token.add_flags),
    "certs": ("Make certificates for TLS, for development and small teams.", flags_certs.add_flags),
    "doctor": ("Check whether a server can run here, or with --address one that runs; say what to do.", _declare_serve),
    "completion": ("Print the script that completes this command line in a shell.", _declare_completion),
    "version": ("Print the versions installed here; asks no server.", _declare_nothing),
}

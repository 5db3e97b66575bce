"""The entry point: parse, run the command, turn whatever happened into an exit code."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.parser import build_parser, name_command
from lmms_eval_grpc.cli.requirements import ENGINE_COMMANDS, require


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; the codes are listed in ``cli.exit_codes``."""
    words = sys.argv[1:] if argv is None else list(argv)
    _tolerate_narrow_encodings()
    try:
        code = _dispatch(words)
        # Here, where a reader that went away can still be handled, and not at the interpreter's exit.
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return ExitCode.BROKEN_PIPE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception:
        traceback.print_exc()
        return ExitCode.BUG
    return code


def _dispatch(argv: Sequence[str]) -> int:
    words = name_command(argv)
    parser = build_parser(words)
    try:
        args = parser.parse_args(words)
    except SystemExit as exit_:
        # argparse: 0 after --help and --version, 2 after it has said what is wrong.
        return exit_.code if isinstance(exit_.code, int) else ExitCode.USAGE
    if args.command is None:
        parser.print_help(sys.stderr)
        return ExitCode.USAGE
    # gRPC's own messages say nothing that a user could act on; read when grpc is first imported, just below.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    output = Output(as_json=args.json, plain=args.plain)
    # Only now: these bring grpc, which asking for help must not.
    from lmms_eval_grpc.cli.failures import attempt

    def work() -> int:
        if args.command in ENGINE_COMMANDS:
            require(args.command)
        command = importlib.import_module(f"lmms_eval_grpc.cli.commands.{args.command}")
        return int(command.run(args, output))

    evaluates = args.command in ENGINE_COMMANDS or args.command == "merge"
    again = "run the command again" if evaluates else None
    return attempt(work, output, getattr(args, "verbosity", None) or "INFO", again=again)


def _tolerate_narrow_encodings() -> None:
    """A character that the terminal's encoding lacks becomes a question mark instead of an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _silence_stdout() -> None:
    """Nobody reads any more; the flush at exit must not complain about it."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)

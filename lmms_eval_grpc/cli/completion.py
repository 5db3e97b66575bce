"""The scripts that complete the command line in a shell, made by shtab from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lmms_eval_grpc.cli.parser import build_parser

if TYPE_CHECKING:
    from shtab import ShellType

_FOLDERS = frozenset({"DIR", "CHECKPOINT"})
_FILES = frozenset({"FILE", "PATH", "RUN", "FIRST", "SECOND"})
_NAMES = {"job_id": "jobs", "model": "models", "tasks": "tasks"}
"""Arguments whose values the server knows, and what to ask it for."""


def make_script(shell: ShellType) -> str:
    """The script for ``shell``.

    Raises:
        ImportError: shtab is not installed.
    """
    import shtab

    parser = _build_whole_parser()
    for action in _actions(parser):
        _keep_one_spelling(action)
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        known: Any = action  # shtab reads what is to be completed from an attribute of its own
        if action.dest in _NAMES:
            known.complete = _ask_for(_NAMES[action.dest])
        elif metavar in _FOLDERS:
            known.complete = shtab.DIRECTORY
        elif metavar in _FILES:
            known.complete = shtab.FILE
    return shtab.complete(parser, shell=shell)


def _ask_for(kind: str) -> dict[str, str | dict[str, str]]:
    """How each shell gets names from the server, when they are asked for.

    Not `shtab.cmd`: in zsh that would ask at the start of every shell.
    """
    command = f"lmms-eval-grpc completion --names {kind} 2>/dev/null"
    function = f"_lmms_eval_grpc_{kind}"
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({command})",
        "preamble": {
            "bash": f'{function}() {{ compgen -W "$({command})" -- "$1"; }}',
            "zsh": f'{function}() {{ compadd -- ${{(f)"$({command})"}} }}',
        },
    }


def _build_whole_parser() -> argparse.ArgumentParser:
    """With the flags of ``serve`` where the server is installed."""
    try:
        return build_parser(["serve"])
    except ImportError:
        return build_parser([])


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _keep_one_spelling(action: argparse.Action) -> None:
    """Offers ``--model_args`` and not ``--model-args`` beside it; both are understood."""
    spellings: dict[str, str] = {}
    for option in action.option_strings:
        spellings.setdefault(option.replace("-", "_"), option)
    action.option_strings = list(spellings.values())

"""How the command line's parsers behave, whatever their flags: what help shows, and how faults are told."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from lmms_eval_grpc.cli.exit_codes import ExitCode


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

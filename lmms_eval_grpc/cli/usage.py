"""The error that the command line raises itself."""

from __future__ import annotations

from collections.abc import Sequence


class UsageError(Exception):
    """The command cannot be done as given; the message says what to do instead.

    ``problems`` are all the things that are wrong, each as (field, what to do), where they are about fields.
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

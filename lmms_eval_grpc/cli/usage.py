"""The error that the command line raises itself."""

from __future__ import annotations


class UsageError(Exception):
    """The command cannot be done as given; the message says what to do instead."""

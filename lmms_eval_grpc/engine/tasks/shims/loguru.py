"""``loguru.logger`` on top of the standard library's logging, for task code where loguru is not installed.

Only what task code uses: levels, ``{}`` formatting, and methods that configure loguru, which do nothing here.
"""

from __future__ import annotations

import logging
from typing import Any

_SUCCESS = 25


class Logger:
    """Logs to the logger ``lmms_eval``."""

    def __init__(self, log: logging.Logger, once: bool = False) -> None:
        self._log = log

    def trace(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self.log(logging.DEBUG, message, *args, **kwargs)

    def debug(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self.log(logging.DEBUG, message, *args, **kwargs)

    def info(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self.log(logging.INFO, message, *args, **kwargs)

    def success(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self.log(_SUCCESS, message, *args, **kwargs)

    def warning(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self.log(logging.WARNING, message, *args, **kwargs)

    def error(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self.log(logging.ERROR, message, *args, **kwargs)

    def critical(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self.log(logging.CRITICAL, message, *args, **kwargs)

    def exception(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self._log.error("%s", _format(message, args, kwargs), exc_info=True)

    def log(self, level: int | str, message: Any, *args: Any, **kwargs: Any) -> None:
        number = logging.getLevelNamesMapping().get(level, logging.INFO) if isinstance(level, str) else level
        self._log.log(number, "%s", _format(message, args, kwargs))

    def opt(self, *args: Any, **kwargs: Any) -> Logger:
        return self

    def bind(self, **kwargs: Any) -> Logger:
        return self

    def add(self, *args: Any, **kwargs: Any) -> int:
        return 0

    def remove(self, *args: Any, **kwargs: Any) -> None:
        """Where messages go is the engine's to decide."""


def _format(message: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    text = str(message)
    if not args and not kwargs:
        return text
    try:
        return text.format(*args, **kwargs)
    except (IndexError, KeyError, ValueError):
        return f"{text} {args} {kwargs}"


logger = Logger(logging.getLogger("lmms_eval"))

"""What happens when a judge gives no judgement: a typed error, that a task's code cannot hide."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class JudgeError(Exception):
    """A judge gave no judgement; the sample it was asked about has no score.

    ``reason`` is a stable upper-case word: ``NOT_CONFIGURED`` (a key or an address is missing), ``REFUSED`` (the
    request is wrong and repeating it would not help), ``RATE_LIMITED``, ``UNAVAILABLE`` (server errors, no connection),
    ``TIMEOUT``, ``MALFORMED_RESPONSE`` (no reply in the protocol's form) or ``MALFORMED_JUDGEMENT`` (a reply that is
    none of the judgements that were asked for).
    """

    def __init__(self, reason: str, message: str, *, transient: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.transient = transient
        """Whether the same request may succeed later."""
        self.retry_after = retry_after
        """Seconds that the judge asked to wait."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class Failures:
    """The failures within one :func:`collect_failures`, by question; several threads may add to it."""

    def __init__(self) -> None:
        self._by_question: dict[str, JudgeError] = {}
        self._lock = threading.Lock()

    def note(self, question: str, error: JudgeError | None) -> None:
        """The newest outcome of a question counts: a task's own second attempt makes up for its first."""
        with self._lock:
            if error is None:
                self._by_question.pop(question, None)
            else:
                self._by_question[question] = error

    def first(self) -> JudgeError | None:
        with self._lock:
            return next(iter(self._by_question.values()), None)


_questions = 0
_lock = threading.Lock()
_collected: ContextVar[Failures | None] = ContextVar("judge_failures", default=None)


@contextmanager
def collect_failures() -> Iterator[Failures]:
    """Collects the failures of judges that are asked within the block, also those that the asking code swallows.

    Tasks often wrap a judge in ``try … except: score = 0``; whoever scores a sample learns here that its score is made
    up. Covers this thread and the contexts copied from it.
    """
    failures = Failures()
    token = _collected.set(failures)
    try:
        yield failures
    finally:
        _collected.reset(token)


def note_outcome(question: str, error: JudgeError | None) -> None:
    """Tells whoever collects failures how a question (any text that identifies it) went; None: it was answered."""
    global _questions
    with _lock:
        _questions += 1
    failures = _collected.get()
    if failures is not None:
        failures.note(question, error)


def questions_asked() -> int:
    """How many questions this process has put to judges, whatever came of them."""
    return _questions

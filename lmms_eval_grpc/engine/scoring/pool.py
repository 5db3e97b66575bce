"""Scoring many samples: one after another, or, where a judge is asked, several at once."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager
from functools import partial
from queue import SimpleQueue
from typing import Any

from lmms_eval_grpc.engine.judge.failures import questions_asked
from lmms_eval_grpc.engine.judge.turns import taking_turns
from lmms_eval_grpc.engine.scoring.process import FilteredScore, ScoringError, score_sample
from lmms_eval_grpc.engine.seeds import seed_for_document
from lmms_eval_grpc.engine.tasks.task import Task

JUDGE_WORKERS = 10
"""Samples that are scored at once when they wait for a judge; as many as it has open requests by default."""

Outcome = tuple[FilteredScore, ...] | ScoringError
"""A sample's scores, or what went wrong."""


class ScoringPool:
    """Scores one task's samples and gives their outcomes back in the order in which they were handed in.

    Scorers that compute are run at once on the caller's thread: threads would only get in each other's way. As soon as
    one has asked a judge, the samples that follow are scored on ``workers`` threads, because they wait for most of the
    time, and the caller goes on meanwhile. Such scorers wait at the same time as each other; of their own code one runs
    at a time, so that what they draw follows from the seeds and the document.
    """

    def __init__(
        self, task: Task, *, workers: int = JUDGE_WORKERS, lock: AbstractContextManager[Any] | None = None
    ) -> None:
        """``lock`` is held while a scorer runs on the caller's thread, for whoever else calls the task's functions."""
        self._task = task
        self._workers = workers
        self._lock = lock or contextlib.nullcontext()
        self._outcomes: deque[tuple[int, Future[Outcome]]] = deque()
        self._open: SimpleQueue[tuple[Future[Outcome], int, Sequence[Any]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._turn = threading.Lock()
        self._asks_judges = False
        self._closed = False

    def submit(self, doc_id: int, responses: Sequence[Any]) -> None:
        """Scores the sample now, or queues it. ``responses`` are what :func:`.process.score_sample` takes."""
        future: Future[Outcome] = Future()
        self._outcomes.append((doc_id, future))
        if self._asks_judges and self._workers > 1:
            self._open.put((future, doc_id, responses))
            if len(self._threads) < self._workers:
                # No executor of the library's: those are waited for at the interpreter's end, a slow judge with them.
                thread = threading.Thread(target=self._work, name="scoring", daemon=True)
                self._threads.append(thread)
                thread.start()
            return
        before = questions_asked()
        with self._lock:
            seed_for_document(self._task.evaluation, doc_id)
            future.set_result(_score(self._task, doc_id, responses))
        self._asks_judges = self._asks_judges or questions_asked() != before

    @property
    def waiting(self) -> bool:
        """Whether outcomes are still to be taken."""
        return bool(self._outcomes)

    def wait(self, seconds: float) -> None:
        """Returns once the next outcome is there, or after ``seconds``."""
        if self._outcomes:
            wait_for([self._outcomes[0][1]], timeout=seconds)

    def finished(self) -> Iterator[tuple[int, Outcome]]:
        """Takes the (document, outcome) pairs that are there, up to the first that is not.

        Raises what a scorer raised that is no Exception, such as SystemExit.
        """
        while self._outcomes and self._outcomes[0][1].done():
            doc_id, future = self._outcomes.popleft()
            yield doc_id, future.result()

    def close(self) -> None:
        """Gives up what is still queued. Scorers that wait for a judge are not waited for; nobody hears of them."""
        self._closed = True
        for _ in self._threads:
            self._open.put(None)

    def __enter__(self) -> ScoringPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _work(self) -> None:
        while (item := self._open.get()) is not None and not self._closed:
            future, doc_id, responses = item
            try:
                with taking_turns(self._turn, partial(seed_for_document, self._task.evaluation, doc_id)):
                    outcome = _score(self._task, doc_id, responses)
                future.set_result(outcome)
            except BaseException as error:  # whoever takes the outcome is to hear of it
                future.set_exception(error)


def score_samples(
    task: Task, answers: Iterable[tuple[int, Sequence[Any]]], *, workers: int = JUDGE_WORKERS
) -> Iterator[tuple[int, Outcome]]:
    """(document, scores or what went wrong) for every (document, responses), in the order given."""
    with ScoringPool(task, workers=workers) as pool:
        for doc_id, responses in answers:
            pool.submit(doc_id, responses)
            yield from pool.finished()
        while pool.waiting:
            pool.wait(60)
            yield from pool.finished()


def _score(task: Task, doc_id: int, responses: Sequence[Any]) -> Outcome:
    try:
        return score_sample(task, doc_id, responses)
    except ScoringError as error:
        return error

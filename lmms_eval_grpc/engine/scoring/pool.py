"""Scoring many samples: one after another, or, where a judge is asked, several at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lmms_eval_grpc.engine.judge.failures import questions_asked
from lmms_eval_grpc.engine.scoring.process import FilteredScore, ScoringError, score_sample
from lmms_eval_grpc.engine.tasks.task import Task

JUDGE_WORKERS = 10
"""Samples that are scored at once when they wait for a judge; as many as it has open requests by default."""

Outcome = tuple[FilteredScore, ...] | ScoringError


def score_samples(
    task: Task, answers: Iterable[tuple[int, Sequence[Any]]], *, workers: int = JUDGE_WORKERS
) -> Iterator[tuple[int, Outcome]]:
    """(document, scores or what went wrong) for every (document, responses), in the order given.

    Scorers that compute are run one after another: threads would only get in each other's way. As soon as one has asked
    a judge, the samples left are scored on ``workers`` threads, because they wait for most of the time.
    """
    remaining = iter(answers)
    for doc_id, responses in remaining:
        before = questions_asked()
        yield doc_id, _score(task, doc_id, responses)
        if questions_asked() != before and workers > 1:
            break
    listed = list(remaining)
    if listed:
        with ThreadPoolExecutor(min(workers, len(listed))) as pool:
            outcomes = pool.map(lambda answer: _score(task, *answer), listed)
            yield from zip((doc_id for doc_id, _ in listed), outcomes, strict=True)


def _score(task: Task, doc_id: int, responses: Sequence[Any]) -> Outcome:
    try:
        return score_sample(task, doc_id, responses)
    except ScoringError as error:
        return error

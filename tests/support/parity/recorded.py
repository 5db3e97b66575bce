"""One side's results of an evaluation as plain JSON, the same for either."""

from __future__ import annotations

from typing import Any, TypedDict

from tests.support.parity.reader import Rendered


class Sample(TypedDict):
    """One document in one filter pipeline."""

    doc_id: int
    filter: str
    prompt: str
    rendered: Rendered
    """What the model was shown."""
    responses: list[str]
    filtered: Any
    target: str
    scores: dict[str, Any]
    """Whatever the task's scorer returned, by metric."""


class TaskResult(TypedDict):
    """One task, or a group without samples."""

    results: dict[str, Any]
    """The task's row of the results document: ``metric,filter`` and the standard errors."""
    samples: list[Sample]


Recorded = dict[str, TaskResult]
"""By task or group."""

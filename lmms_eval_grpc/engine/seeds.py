"""Seeding every random generator that an evaluation may touch.

Tasks shuffle in ``process_docs`` and guess in ``process_results``, with the generators of the process. What they draw
must not depend on what was drawn before them, or a run that is taken up would ask other documents than it began with.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from lmms_eval_grpc.engine.api import EvaluationConfig


def set_seeds(config: EvaluationConfig) -> None:
    """Seeds Python, NumPy and torch; a seed of None leaves that generator alone."""
    import torch  # late: tasks can be checked without it

    seed_for_task(config)
    if config.seed[2] is not None:
        torch.manual_seed(config.seed[2])


def seed_for_task(config: EvaluationConfig) -> None:
    """Seeds what a task's functions draw from, before they make its documents."""
    python, numpy, _, _ = config.seed
    if python is not None:
        random.seed(python)
    if numpy is not None:
        np.random.seed(numpy)


def seed_for_document(config: EvaluationConfig, doc_id: int) -> None:
    """The same, before document ``doc_id`` is scored: whatever was scored before it, a guess is the same."""
    python, numpy, _, _ = config.seed
    if python is not None:
        random.seed(f"{python} {doc_id}")
    if numpy is not None:
        np.random.seed([numpy, doc_id])


def random_state() -> Any:
    """Where Python's and NumPy's generators are, for :func:`set_random_state`."""
    return random.getstate(), np.random.get_state()


def set_random_state(state: Any) -> None:
    """Has the generators go on from there."""
    python, numpy = state
    random.setstate(python)
    np.random.set_state(numpy)

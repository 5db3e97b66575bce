"""Seeding every random generator that an evaluation may touch."""

from __future__ import annotations

import random

import numpy as np

from lmms_eval_grpc.engine.api import EvaluationConfig


def set_seeds(config: EvaluationConfig) -> None:
    """Seeds Python, NumPy and torch; a seed of None leaves that generator alone."""
    import torch  # late: tasks can be checked without it

    python, numpy, torch_seed, _ = config.seed
    if python is not None:
        random.seed(python)
    if numpy is not None:
        np.random.seed(numpy)
    if torch_seed is not None:
        torch.manual_seed(torch_seed)

"""Which frames of a video a policy chooses, and when frames are shown."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from lmms_eval_grpc.engine.data.media.frames import FramePolicy, select_frames
from lmms_eval_grpc.engine.data.media.timeline import Timeline


@pytest.mark.parametrize(
    ("total", "fps", "policy", "expected"),
    [
        (100, 25.0, FramePolicy(4), [0, 33, 66, 99]),
        (3, 25.0, FramePolicy(8), [0, 1, 2]),
        (100, 25.0, FramePolicy(1), [0]),
        (100, 25.0, FramePolicy(32, fps=1), [0, 33, 66, 99]),  # four seconds
        (100, 25.0, FramePolicy(2, fps=1), [0, 99]),
        (10, 25.0, FramePolicy(32, fps=1), [0]),  # less than a second
        (5, 25.0, FramePolicy(None), [0, 1, 2, 3, 4]),
        (100, 25.0, FramePolicy(32, fps=1, sampling="fps"), [0, 25, 50, 75]),
        (100, 25.0, FramePolicy(3, fps=1, sampling="fps"), [0, 49, 99]),
        (3, 25.0, FramePolicy(32, fps=100, sampling="fps"), [0, 1, 2]),
        (100, 25.0, FramePolicy(32, fps=1, sampling="first_last"), [0, 25, 50, 75, 99]),
        (100, 25.0, FramePolicy(3, fps=1, sampling="first_last"), [0, 49, 99]),
        (100, 25.0, FramePolicy(1, sampling="first_last"), [99]),
        (100, 25.0, FramePolicy(5, sampling="qwen_vl"), [0, 33, 66, 99]),
        (100, 25.0, FramePolicy(None, fps=2, sampling="qwen_vl"), [0, 14, 28, 42, 57, 71, 85, 99]),
        (20, 25.0, FramePolicy(None, fps=1, sampling="qwen_vl"), [0, 6, 13, 19]),  # no less than four
        (1, 25.0, FramePolicy(8, sampling="qwen_vl"), [0]),
    ],
)
def test_each_policy(total: int, fps: float, policy: FramePolicy, expected: list[int]) -> None:
    assert select_frames(total, fps, total / fps, policy) == expected


@pytest.mark.parametrize("total", [2, 5, 97, 250, 1001, 54321])
@pytest.mark.parametrize("count", [2, 4, 8, 64, 768])
def test_uniform_and_qwen_positions_are_those_of_numpy_and_torch(total: int, count: int) -> None:
    uniform = np.unique(np.linspace(0, total - 1, min(count, total), dtype=int)).tolist()
    assert select_frames(total, 25.0, total / 25, FramePolicy(count)) == uniform
    even = min(count, total) // 2 * 2
    qwen = torch.linspace(0, total - 1, even).round().long().unique().tolist()
    assert select_frames(total, 25.0, total / 25, FramePolicy(count, sampling="qwen_vl")) == qwen


def test_any_choice_is_ascending_and_within_the_video() -> None:
    policies = [
        FramePolicy(count, fps, sampling)
        for count in (None, 1, 2, 7, 64)
        for fps in (None, 0.1, 1, 30.5)
        for sampling in ("uniform", "fps", "first_last", "qwen_vl")
        if fps is not None or sampling != "fps"
    ]
    for policy, total, fps in itertools.product(policies, (1, 2, 3, 50, 999), (0.5, 23.976, 60.0)):
        chosen = select_frames(total, fps, total / fps, policy)
        assert chosen, policy
        assert chosen == sorted(set(chosen))
        assert chosen[0] >= 0
        assert chosen[-1] < total


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_num_frames": 0}, "max_num_frames"),
        ({"fps": 0.0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"sampling": "all"}, "uniform, fps, first_last, qwen_vl"),
        ({"sampling": "fps"}, "needs fps"),
    ],
)
def test_a_policy_that_cannot_be_meant_says_why(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FramePolicy(**values)


def test_the_announced_rate_counts_unless_the_times_belie_it() -> None:
    times = [index / 10 for index in range(11)]
    assert Timeline.measured(times, None).fps == pytest.approx(10)
    assert Timeline.measured(times, 25).fps == pytest.approx(10)  # type: ignore[arg-type]
    assert Timeline.measured([0.0], None).duration == 1.0

"""``lmms_eval.tasks._task_utils.vqa_eval_metric``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmms_eval_grpc.benchmarks._shared import vqa_text

_normalise: Callable[[str], str] = vqa_text.normalise_answer


class EvalAIAnswerProcessor:
    """Answers in the form in which the VQA challenge's server compares them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes and ignores anything, as lmms-eval's does."""

    def __call__(self, item: str) -> str:
        return _normalise(item)

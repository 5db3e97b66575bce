"""``lmms_eval.api.reasoning``."""

from __future__ import annotations

from collections.abc import Sequence

from lmms_eval_grpc.engine.scoring.reasoning import parse_tags, strip_reasoning


def strip_reasoning_tags(text: str, tag_pairs: Sequence[Sequence[str]]) -> str:
    return strip_reasoning(text, [(pair[0], pair[1]) for pair in tag_pairs])


def parse_reasoning_tags_config(
    cli_value: str | None = None, task_value: object | None = None
) -> list[list[str]] | None:
    """The pairs of the task, else of the command line; None where nothing is to be stripped."""
    value = task_value if task_value is not None else cli_value
    if value is None:
        return None
    return [list(pair) for pair in parse_tags(value)] or None

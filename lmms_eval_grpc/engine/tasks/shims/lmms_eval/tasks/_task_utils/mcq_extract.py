"""``lmms_eval.tasks._task_utils.mcq_extract``."""

from __future__ import annotations

from collections.abc import Sequence

from lmms_eval_grpc.engine.judge.choice_letters import find_choice_letter


def extract_mcq_answer(response: str, choices: Sequence[str] | None = None) -> str:
    """The letter of the option that ``response`` names, of ``choices`` (by default A to H); empty if it names none."""
    return find_choice_letter(response, choices)

"""Our own wording of the usual questions to a judge. Tasks that need another bring a ``custom_prompt``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BINARY = """You grade answers. Compare the candidate's answer with the reference and decide whether it is right.

Question:
{question}

Reference answer:
{answer}

Candidate's answer:
{prediction}

How to grade:
- The candidate may think aloud first. Grade its final answer only.
- If the question offers options, naming the right option by its letter or by its text is right.
- Otherwise the answer is right when it means the same as the reference. Wording, case, spacing and format do not count.
- Numbers are right when they agree within sensible rounding; a unit, where one is asked for, must be right too.
- An answer that is partly right, or that adds something wrong, is not right.

Write {positive} if the answer is right and {negative} if it is not. Write nothing else."""

_COMPARATIVE = """You compare two assistants' answers to the same question.

Question:
{question}
{context}
Assistant 1 answered:
{response1}

Assistant 2 answered:
{response2}

Judge how helpful, relevant, accurate and detailed each answer is. {instruction}
The order of the two answers must not matter to you.

Write in the first line nothing but the two scores, from {low} to {high} (higher is better), that of Assistant 1 first,
with a space between them. Give your reasons in the lines below."""

_RUBRIC = """Grade the response by each item of the rubric.

Question:
{question}

Response:
{prediction}

Rubric:
{rubric}

Answer with one JSON object that has each item of the rubric as a key and its score as the value."""


def binary_prompt(
    question: str,
    answer: str,
    prediction: str,
    output_format: str = "0/1",
    custom_prompt: str | None = None,
    **kwargs: Any,
) -> str:
    """Asks whether ``prediction`` is right. A custom prompt may name question, answer, prediction (or pred)."""
    if custom_prompt:
        return custom_prompt.format(question=question, answer=answer, prediction=prediction, pred=prediction, **kwargs)
    positive, negative = ("1", "0") if output_format in ("0/1", "1/0") else ("Yes", "No")
    return _BINARY.format(question=question, answer=answer, prediction=prediction, positive=positive, negative=negative)


def comparative_prompt(
    question: str,
    response1: str,
    response2: str,
    context: str | None = None,
    score_range: tuple[float, float] = (1, 10),
    custom_prompt: str | None = None,
    evaluation_instruction: str | None = None,
    **kwargs: Any,
) -> str:
    """Asks for a score of each of two responses, from ``score_range[0]`` to ``score_range[1]``."""
    if custom_prompt:
        return custom_prompt.format(
            question=question, response1=response1, response2=response2, context=context or "", **kwargs
        )
    return _COMPARATIVE.format(
        question=question,
        context=f"\nContext:\n{context}\n" if context else "",
        response1=response1,
        response2=response2,
        instruction=evaluation_instruction or "",
        low=score_range[0],
        high=score_range[1],
    )


def rubric_prompt(question: str, prediction: str, rubric: Mapping[str, Any]) -> str:
    """Asks for a JSON object with a score for each item of ``rubric`` (name: what it means)."""
    items = "\n".join(f"- {name}: {meaning}" for name, meaning in rubric.items())
    return _RUBRIC.format(question=question, prediction=prediction, rubric=items)

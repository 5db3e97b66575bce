"""What a judge is asked and what it answers, in lmms-eval's names."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

COMPAT_PARSING = "LMMS_EVAL_JUDGE_PARSING"
"""Environment variable; ``lmms-eval`` reads judgements as loosely as lmms-eval does, for scores that equal its."""


@dataclass
class ServerConfig:
    """Which judge, and how to ask it. Seconds throughout."""

    model_name: str
    temperature: float = 0.0
    max_tokens: int = 1024
    top_p: float | None = None
    timeout: float = 60
    """For one attempt, from connecting to the last byte."""
    num_retries: int = 5
    """Attempts in all; only failures that may pass are tried again."""
    retry_delay: float = 10
    """The longest pause between two attempts, unless the judge asks for a longer one. Pauses begin at half a second and
    double."""
    max_concurrent: int = 10
    """Requests open at once, over all threads of this process that ask the same judge."""
    system_prompt: str | None = None
    response_format: str | None = None
    """``json`` or ``text``."""
    judge_type: str = "general"
    output_format: str | None = None
    score_range: tuple[float, float] | None = None
    evaluation_criteria: dict[str, Any] | None = None

    @property
    def is_deterministic(self) -> bool:
        """Whether the same question may be answered from the cache; a sampling judge may be asked for several votes."""
        return self.temperature == 0


@dataclass
class Request:
    """One question to a judge."""

    messages: list[dict[str, Any]]
    """In OpenAI's form."""
    images: list[Any] | None = None
    """Appended to the last user message: PIL images, paths, URLs, encoded bytes, or base64 text."""
    config: ServerConfig | None = None
    """Instead of the server's own."""
    question: str | None = None
    answer: str | None = None
    prediction: str | None = None
    context: str | None = None
    options: list[str] | None = None
    response1: str | None = None
    response2: str | None = None
    custom_prompt: str | None = None
    prompt_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Response:
    """What the judge said. There is none for a failure: that raises :class:`.failures.JudgeError`."""

    content: str
    model_used: str
    usage: dict[str, Any] | None = None
    """Tokens, in OpenAI's form."""
    raw_response: Any = None
    """The whole reply; None for one from the cache."""
    parsed_result: Any = None
    success: bool = True
    error_message: str | None = None


def is_compat_parsing() -> bool:
    """Whether judgements are to be read as loosely as lmms-eval reads them."""
    return os.environ.get(COMPAT_PARSING, "").strip().lower() in ("lmms-eval", "lmms_eval")

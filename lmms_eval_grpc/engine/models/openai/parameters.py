"""From lmms-eval's generation arguments to the fields of a request, and which of them a server takes."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.generation_arguments import IGNORED_KEYS, RENAMED_KEYS, read_stops
from lmms_eval_grpc.engine.models.openai.arguments import (
    LOCAL_KEYS,
    ONE_KEYS,
    OTHER_SERVERS_KEYS,
    PLAIN_KEYS,
    SAMPLING_KEYS,
)
from lmms_eval_grpc.engine.models.openai.failures import RequestFailure
from lmms_eval_grpc.engine.models.openai.options import RequestOptions
from lmms_eval_grpc.engine.models.sampling import samples

logger = logging.getLogger(__name__)

MOST_STOPS = 4
"""Stop strings that the API takes; all are cut from the text in any case."""

_DRAWING = ("temperature", "do_sample", "n", "best_of")
"""Fields of ``extra_body`` that may make the server draw, or answer several times."""
_DROPPABLE = frozenset({"stop", "temperature", "top_p", "seed"})
_REASONING = re.compile(r"(^|/)(o[1-9]|gpt-5)")


@dataclass(frozen=True, slots=True)
class Parameters:
    """How one request is to be generated."""

    fields: Mapping[str, Any]
    extra: Mapping[str, Any]
    """Fields that OpenAI's API does not have."""
    stops: tuple[str, ...]


def read_parameters(generation: Mapping[str, Any], options: RequestOptions) -> Parameters:
    """Resolves generation arguments.

    A temperature decides, where one is given: positive samples, 0 is greedy. Else ``do_sample``; else greedy. So it is
    in the Hugging Face backend. Raises :class:`EvaluationError` ``INVALID_GENERATION_ARGS`` for what means nothing.
    """
    wanted = {RENAMED_KEYS.get(key, key): value for key, value in generation.items() if key not in IGNORED_KEYS}
    stops = read_stops(wanted.pop("until", None))
    temperature = wanted.pop("temperature", None)
    do_sample = bool(wanted.pop("do_sample", False)) if temperature is None else temperature > 0
    most = wanted.pop("max_new_tokens", options.max_new_tokens)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise EvaluationError("INVALID_GENERATION_ARGS", f"max_new_tokens must be a positive integer, not {most!r}")
    fields: dict[str, Any] = {"max_tokens": most}
    if not do_sample:
        fields["temperature"] = 0
    elif temperature is not None:
        fields["temperature"] = temperature
    extra: dict[str, Any] = {}
    for key, value in wanted.items():
        if key in ONE_KEYS:
            if value not in (None, 1):
                raise EvaluationError(
                    "INVALID_GENERATION_ARGS", f"{key} must be 1 for this backend, not {value!r}; use repeats instead"
                )
        elif value is None or key in LOCAL_KEYS:
            continue
        elif key in PLAIN_KEYS:
            fields[key] = value
        elif key in SAMPLING_KEYS:
            if do_sample:
                fields[key] = value
        elif key in OTHER_SERVERS_KEYS:
            if do_sample or key not in ("top_k", "min_p"):
                extra[key] = value
        else:
            raise EvaluationError("INVALID_GENERATION_ARGS", f"{key!r} is not a generation argument (value {value!r})")
    if stops:
        fields["stop"] = list(stops[:MOST_STOPS])
    if options.enable_thinking_kwarg is not None:
        extra["chat_template_kwargs"] = {"enable_thinking": options.enable_thinking_kwarg}
    if options.pass_video_url:
        extra["media_io_kwargs"] = {"video": {"num_frames": options.nframes}}
    return Parameters(fields, {**extra, **(options.extra_body or {})}, stops)


def may_sample(generation: Mapping[str, Any], options: RequestOptions, dialect: Dialect) -> bool:
    """Whether the server may draw: it is asked to, by ``extra_body`` too, or it does not take a temperature."""
    extra = dict(options.extra_body or {})
    told = {name: extra.pop(name) for name in _DRAWING if name in extra}
    if samples({**generation, **told}):
        return True
    text = json.dumps(extra, default=str)
    if "temperature" in text or "do_sample" in text:  # for a part of the server, in a form of its own
        return True
    return "temperature" not in told and not dialect.takes("temperature")


class Dialect:
    """Which of the parameters this server takes for this model: known by its name, or learnt from its refusals."""

    def __init__(self, model: str, *, takes_stop: bool = True) -> None:
        self._dropped = set() if takes_stop else {"stop"}
        self._stop_works = False
        self._new_limit = bool(_REASONING.search(model))
        if self._new_limit:  # reasoning models sample as they think fit
            self._dropped |= {"temperature", "top_p"}

    def takes(self, name: str) -> bool:
        """Whether the field is sent, as far as is known by now."""
        return name not in self._dropped

    def speak(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """``fields`` as the server takes them."""
        spoken = {name: value for name, value in fields.items() if name not in self._dropped}
        if self._new_limit:
            spoken["max_completion_tokens"] = spoken.pop("max_tokens")
        return spoken

    def learn(self, sent: Mapping[str, Any], failure: RequestFailure) -> bool:
        """Takes a refusal in; True: the same request may pass now, without what the server does not take.

        A server error for a request with ``stop`` is taken for a refusal of it, unless it ever worked: texts are cut at
        stop strings in any case, so this costs tokens at most.
        """
        refused = failure.parameter
        if failure.status in (400, 422) and refused == "max_tokens" and "max_tokens" in sent:
            self._new_limit = True
            return True
        if failure.status in (400, 422) and refused is None and "stop" in sent and "stop" in failure.message:
            refused = "stop"
        if failure.status == 500 and "stop" in sent and not self._stop_works:
            refused = "stop"
        if refused not in _DROPPABLE or refused not in sent or failure.status not in (400, 422, 500):
            return False
        logger.warning("the server does not take %s (%s); it is left out from now on", refused, failure.message[:200])
        self._dropped.add(refused)
        return True

    def note_success(self, sent: Mapping[str, Any]) -> None:
        self._stop_works = self._stop_works or "stop" in sent

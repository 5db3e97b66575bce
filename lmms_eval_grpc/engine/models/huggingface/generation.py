"""From lmms-eval's generation arguments to a transformers generation configuration."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.generation_arguments import IGNORED_KEYS, RENAMED_KEYS, read_stops
from lmms_eval_grpc.engine.models.huggingface.sampling import SAMPLING_KEYS, make_warpers


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """How to generate for requests that share their arguments."""

    config: GenerationConfig
    stops: tuple[str, ...]
    warpers: tuple[Any, ...] | None = None
    """Logits processors before each request's own choice of a token; None: the model's greedy one, or its beams."""

    @property
    def max_new_tokens(self) -> int:
        return int(self.config.max_new_tokens)


def generation_key(generation: Mapping[str, Any]) -> str:
    """Equal for requests that may share a batch."""
    return json.dumps(generation, sort_keys=True, default=str)


def plan_generation(
    generation: Mapping[str, Any],
    *,
    defaults: GenerationConfig,
    max_new_tokens: int,
    use_cache: bool,
    special_tokens: Mapping[str, int],
) -> GenerationPlan:
    """Resolves arguments over ``defaults`` (the checkpoint's own generation configuration).

    A temperature decides, where one is given: positive samples, 0 is greedy. So an override of the temperature works on
    the many tasks that say ``do_sample: false``, as it does in lmms-eval. Else ``do_sample``; else greedy. A stop
    string that is one of the tokenizer's ``special_tokens`` never shows in decoded text, so it becomes an end token.
    Sampling without beams is not left to transformers (see :mod:`.sampling`).

    Raises :class:`EvaluationError` ``INVALID_GENERATION_ARGS`` for a key or value that means nothing.
    """
    wanted = {RENAMED_KEYS.get(key, key): value for key, value in generation.items() if key not in IGNORED_KEYS}
    stops = read_stops(wanted.pop("until", None))
    temperature = wanted.get("temperature")
    if temperature is not None and not isinstance(temperature, int | float):
        raise EvaluationError("INVALID_GENERATION_ARGS", f"temperature must be a number, not {temperature!r}")
    do_sample = bool(wanted.pop("do_sample", False)) if temperature is None else temperature > 0
    wanted.pop("do_sample", None)
    config = copy.deepcopy(defaults)
    config.max_new_tokens = max_new_tokens
    # max_length of a checkpoint counts the prompt too and would silently win where it is shorter.
    config.max_length = None
    config.num_return_sequences = 1
    config.use_cache = use_cache
    config.eos_token_id = _as_list(defaults.eos_token_id) + [special_tokens[s] for s in stops if s in special_tokens]
    for key, value in wanted.items():
        if not hasattr(config, key) or key.startswith("_"):
            raise EvaluationError("INVALID_GENERATION_ARGS", f"{key!r} is not a generation argument (value {value!r})")
        setattr(config, key, value)
    config.do_sample = do_sample
    if not do_sample:
        _forget_sampling(config)
    try:
        config.validate()
    except (ValueError, TypeError) as error:
        raise EvaluationError("INVALID_GENERATION_ARGS", f"generation arguments {wanted}: {error}") from error
    if not isinstance(config.max_new_tokens, int) or config.max_new_tokens < 1:
        raise EvaluationError(
            "INVALID_GENERATION_ARGS", f"max_new_tokens must be a positive integer, not {config.max_new_tokens!r}"
        )
    if not do_sample or (config.num_beams or 1) > 1:
        return GenerationPlan(config, stops)
    try:
        warpers = tuple(make_warpers(config))
    except (ValueError, TypeError) as error:
        raise EvaluationError("INVALID_GENERATION_ARGS", f"generation arguments {wanted}: {error}") from error
    _forget_sampling(config)
    return GenerationPlan(config, stops, warpers)


def _forget_sampling(config: GenerationConfig) -> None:
    config.do_sample = False
    for key in SAMPLING_KEYS:
        setattr(config, key, None)


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)

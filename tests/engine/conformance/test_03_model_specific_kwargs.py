"""3. ``lmms_eval_specific_kwargs``: the model's own key, ``default``, ``dataset`` or none, and the keys that stay."""

from __future__ import annotations

from typing import Any

import pytest

from lmms_eval_grpc.engine.tasks.config import parse_task_config, resolve_for_model

OWN = {"pre_prompt": "own"}
DEFAULT = {"pre_prompt": "default", "post_prompt": "p"}
DATASET = {"pre_prompt": "dataset"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({"qwen2_5_vl": OWN, "default": DEFAULT}, OWN),
        ({"other": OWN, "default": DEFAULT}, {"other": OWN, "default": DEFAULT, **DEFAULT}),
        ({"other": OWN, "dataset": DATASET}, {"other": OWN, "dataset": DATASET, **DATASET}),
        (
            {"default": DEFAULT, "dataset": DATASET},
            {"default": DEFAULT, "dataset": DATASET, **DEFAULT},
        ),
        ({"pre_prompt": "plain"}, {"pre_prompt": "plain"}),
        ({"other": OWN}, {"other": OWN}),
    ],
)
def test_the_effective_kwargs_and_their_residual_keys(given: Any, expected: Any) -> None:
    config = parse_task_config({"task": "t", "lmms_eval_specific_kwargs": given}, "t.yaml")
    assert resolve_for_model(config, "qwen2_5_vl", {}).lmms_eval_specific_kwargs == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), ({"qwen2_5_vl": {"a": 1}, "default": {"a": 2}}, {"a": 1}), ({"default": {"a": 2}}, {"a": 2})],
)
def test_target_kwargs_are_the_models_or_the_defaults(given: Any, expected: Any) -> None:
    config = parse_task_config({"task": "t", "model_specific_target_kwargs": given}, "t.yaml")
    assert resolve_for_model(config, "qwen2_5_vl", {}).model_specific_target_kwargs == expected


def test_generation_kwargs_come_from_the_task_then_the_model_then_the_user() -> None:
    values = {
        "task": "t",
        "generation_kwargs": {"max_new_tokens": 1, "temperature": 0, "top_p": 0.5},
        "model_specific_generation_kwargs": {"qwen2_5_vl": {"max_new_tokens": 2, "temperature": 0.5}},
    }
    config = resolve_for_model(parse_task_config(values, "t.yaml"), "qwen2_5_vl", {"max_new_tokens": 3})
    assert config.generation_kwargs == {"max_new_tokens": 3, "temperature": 0.5, "top_p": 0.5, "until": ["\n\n"]}

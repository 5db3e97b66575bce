"""A task's fields: defaults, refusals, and what depends on the model's name."""

from __future__ import annotations

from typing import Any

import pytest

from lmms_eval_grpc.engine.tasks.config import TaskConfig, parse_task_config, resolve_for_model
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError


def parse(**values: Any) -> TaskConfig:
    return parse_task_config({"task": "t", **values}, "folder/t.yaml")


def test_an_unknown_key_is_named_with_the_file_and_the_nearest_key() -> None:
    with pytest.raises(TaskFileError) as raised:
        parse(doc_to_txt="question", banana=1)
    message = str(raised.value)
    assert message.startswith("folder/t.yaml: ")
    assert "unknown key 'doc_to_txt' (did you mean 'doc_to_text'?)" in message
    assert "unknown key 'banana'" in message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"until": ["\n\n"], "do_sample": False}),
        ({"fewshot_delimiter": "|"}, {"until": ["|"], "do_sample": False}),
        ({"generation_kwargs": {"max_new_tokens": 8}}, {"max_new_tokens": 8, "until": ["\n\n"]}),
        (
            {"generation_kwargs": {"until": ["."], "temperature": 0}},
            {"until": ["."], "temperature": 0.0},
        ),
        ({"output_type": "generate_until_multi_round"}, {"until": ["\n\n"], "do_sample": False}),
        ({"output_type": "generate_visual_cot"}, None),
        ({"output_type": "multiple_choice"}, None),
    ],
)
def test_defaults_of_generation_arguments(values: dict[str, Any], expected: dict[str, Any] | None) -> None:
    assert parse(**values).generation_kwargs == expected


def test_version_is_text_and_yaml_without_one() -> None:
    assert parse().version == "Yaml"
    assert parse(metadata=[{"version": 2}]).version == "Yaml"
    assert parse(metadata={"version": 0.1}).version == "0.1"


def test_group_in_a_task_file_is_its_tag_but_not_beside_one() -> None:
    assert parse(group="family").tag == "family"
    with pytest.raises(TaskFileError, match="both tag and group"):
        parse(group="family", tag="other")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output_type": "guess"}, "output_type 'guess' is none of generate_until"),
        ({"generation_kwargs": [1]}, "generation_kwargs must be a mapping"),
        ({"generation_kwargs": {"temperature": "hot"}}, "temperature must be a number"),
        ({"metric_list": {"metric": "acc"}}, "metric_list must be a list of mappings"),
        ({"process_results": "utils.f"}, "process_results must be a function"),
        ({"test_split": 3}, "test_split must be text"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"repeats": "two"}, "repeats must be a whole number"),
        ({"num_fewshot": -1}, "num_fewshot must be a whole number"),
        ({"task": None}, "task must be a name"),
    ],
)
def test_values_of_a_wrong_kind_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskFileError, match=message):
        parse(**values)


KWARGS = {"default": {"pre": "d"}, "dataset": {"pre": "s"}, "qwen": {"pre": "q"}}


@pytest.mark.parametrize(
    ("kwargs", "model", "expected"),
    [
        (None, "qwen", None),
        (KWARGS, "qwen", {"pre": "q"}),
        (KWARGS, "other", {**KWARGS, "pre": "d"}),
        ({"dataset": {"pre": "s"}, "qwen": {}}, "other", {"dataset": {"pre": "s"}, "qwen": {}, "pre": "s"}),
        ({"pre": "plain"}, "other", {"pre": "plain"}),
    ],
)
def test_specific_kwargs_by_model(kwargs: Any, model: str, expected: Any) -> None:
    assert resolve_for_model(parse(lmms_eval_specific_kwargs=kwargs), model, {}).lmms_eval_specific_kwargs == expected


@pytest.mark.parametrize(("model", "expected"), [("qwen", "q"), ("other", "d")])
def test_target_kwargs_by_model(model: str, expected: str) -> None:
    config = parse(model_specific_target_kwargs={"qwen": "q", "default": "d"})
    assert resolve_for_model(config, model, {}).model_specific_target_kwargs == expected


def test_generation_arguments_task_then_model_then_request() -> None:
    config = parse(
        generation_kwargs={"max_new_tokens": 1, "temperature": 1, "top_p": 1},
        model_specific_generation_kwargs={"qwen": {"max_new_tokens": 2, "temperature": 2}, "default": {"top_p": 0.5}},
    )
    own = resolve_for_model(config, "qwen", {"max_new_tokens": 3}).generation_kwargs
    assert own == {"max_new_tokens": 3, "temperature": 2, "top_p": 1, "until": ["\n\n"]}
    default = resolve_for_model(config, "other", {}).generation_kwargs
    assert default == {"max_new_tokens": 1, "temperature": 1.0, "top_p": 0.5, "until": ["\n\n"]}
    assert config.generation_kwargs == {"max_new_tokens": 1, "temperature": 1.0, "top_p": 1, "until": ["\n\n"]}


def test_until_is_a_list_of_strings_whatever_was_given() -> None:
    assert resolve_for_model(parse(), "m", {"until": "stop"}).generation_kwargs == {
        "until": ["stop"],
        "do_sample": False,
    }
    assert resolve_for_model(parse(), "m", {"until": ["", "a"]}).generation_kwargs == {
        "until": ["a"],
        "do_sample": False,
    }
    with pytest.raises(TaskFileError, match="until must be a string or a list of strings, but is 3"):
        resolve_for_model(parse(), "m", {"until": 3})


def test_request_arguments_do_not_reach_tasks_that_generate_nothing() -> None:
    assert resolve_for_model(parse(output_type="multiple_choice"), "m", {"top_p": 1}).generation_kwargs is None


def test_dump_is_plain_and_leaves_out_what_is_not_set() -> None:
    dumped = parse(process_results=len, test_split="test").dump()
    assert dumped["process_results"] == "!function builtins.len"
    assert dumped["test_split"] == "test"
    assert "doc_to_visual" not in dumped

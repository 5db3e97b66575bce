"""Tasks ready to run: real YAML files over real parquet files."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.tasks.load import load_tasks
from lmms_eval_grpc.engine.tasks.messages import prompt_text
from lmms_eval_grpc.engine.tasks.task import DocumentError, Task
from tests.support.task_files import QUESTIONS, datasets_cache, image, load, write_task, write_yaml

__all__ = ["datasets_cache"]

IMAGES = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})


def test_the_shipped_task_builds_a_request_with_an_image() -> None:
    (task,) = load_tasks(EvaluationConfig(model="huggingface", tasks=("handwritten_digits",)))
    request = task.build_request(0)
    picture, text = request.messages[0]["content"]
    assert picture["type"] == "image"
    assert picture["url"].mode == "RGB"
    assert text["text"].startswith("What digit is shown?")
    assert request.generation == {"max_new_tokens": 4, "do_sample": False, "until": ["\n\n"]}
    assert task.total_documents == 360
    assert task.version == "1.0"
    assert task.target(0) in "0123456789"


def test_loading_keeps_the_order_of_the_request(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write_task(tmp_path, "tag: all", name=name)
    config = EvaluationConfig(model="m", tasks=("two", "all", "one"), include_paths=(tmp_path,))
    assert [task.name for task in load_tasks(config)] == ["two", "one", "three"]


def test_images_and_text_make_automatic_messages(tmp_path: Path) -> None:
    documents = [{"image": image(value), "label": value} for value in range(3)]
    keys = "doc_to_visual: image\ndoc_to_text: 'Which value, {{label}}?'\ndoc_to_target: label"
    write_task(tmp_path, keys, documents=documents, features=IMAGES)
    task = load(tmp_path)
    content = task.build_request(2).messages[0]["content"]
    assert content[0]["url"].getpixel((0, 0)) == 2
    assert content[1]["text"] == "Which value, 2?"
    assert task.input_text(2) == "Which value, 2?"
    assert task.target(2) == 2


def test_doc_to_messages_is_used_when_the_task_has_one(tmp_path: Path) -> None:
    utils = """
        def messages(doc, lmms_eval_specific_kwargs):
            return [{"role": "user", "content": lmms_eval_specific_kwargs["pre"] + doc["question"]}]
    """
    keys = """
        doc_to_messages: !function utils.messages
        lmms_eval_specific_kwargs: {default: {pre: 'p '}, qwen: {pre: 'w '}}
    """
    write_task(tmp_path, keys, utils=utils)
    assert load(tmp_path).input_text(1) == "p q1"
    assert load(tmp_path, model="qwen").input_text(1) == "w q1"


def test_system_instruction_and_description_reach_the_model_as_one_system_message(tmp_path: Path) -> None:
    write_task(tmp_path, "description: 'About {{answer}}.'")
    task = load(tmp_path, system_instruction="Be brief.")
    roles = [message["role"] for message in task.build_request(3).messages]
    assert roles == ["system", "user"]
    assert prompt_text(task.build_request(3).messages) == "system: Be brief.\n\nAbout a3.\n\nuser: q3"
    assert task.prompt_policy["system_message"] == ["system_instruction", "description"]


def test_a_number_of_a_choice_becomes_its_text(tmp_path: Path) -> None:
    write_task(tmp_path, "doc_to_text: '1'\ndoc_to_choice: ['no', 'yes']\ndoc_to_target: '0'")
    task = load(tmp_path)
    assert task.input_text(0) == "yes"
    assert task.target(0) == 0


def test_each_request_has_its_own_generation_arguments(tmp_path: Path) -> None:
    write_task(tmp_path)
    task = load(tmp_path, gen_kwargs={"max_new_tokens": 5})
    first = task.build_request(0)
    assert isinstance(first.generation, dict)
    first.generation["until"].append("x")
    assert task.build_request(0).generation == {"until": ["\n\n"], "do_sample": False, "max_new_tokens": 5}


@pytest.fixture(scope="module")
def plain_task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("plain")
    write_task(folder, documents=[{"question": "q", "answer": "a"}] * 50)
    return load(folder)


@settings(max_examples=200, deadline=None)
@given(
    limit=st.one_of(st.none(), st.just(-1), st.integers(1, 60), st.floats(0.001, 0.999), st.floats(1, 60)),
    offset=st.integers(0, 60),
)
def test_documents_are_chosen_as_by_islice(plain_task: Task, limit: int | float | None, offset: int) -> None:
    count = None if limit is None or limit == -1 else math.ceil(50 * limit) if limit < 1 else int(limit)
    expected = list(itertools.islice(range(50), offset, None if count is None else offset + count))
    if expected:
        assert list(plain_task.doc_ids(limit, offset)) == expected
    else:
        with pytest.raises(EvaluationError, match="select none of the 50 documents") as raised:
            plain_task.doc_ids(limit, offset)
        assert raised.value.reason == "NO_DOCUMENTS"


@pytest.mark.parametrize(("limit", "offset"), [(0, 0), (0.0, 0), (-2, 0), (math.nan, 0), (math.inf, 0), (1, -1)])
def test_limits_without_meaning_are_errors(plain_task: Task, limit: float, offset: int) -> None:
    with pytest.raises(EvaluationError) as raised:
        plain_task.doc_ids(limit, offset)
    assert raised.value.reason == "INVALID_LIMIT"


def test_a_share_is_taken_of_each_tasks_own_size(tmp_path: Path) -> None:
    write_task(tmp_path, name="small", documents=QUESTIONS * 1)
    write_task(tmp_path, name="large", documents=QUESTIONS * 5)
    tasks = load_tasks(EvaluationConfig(model="m", tasks=("large", "small"), include_paths=(tmp_path,)))
    assert [len(task.doc_ids(0.5)) for task in tasks] == [15, 3]


UTILS = "def text(doc):\n    return doc['question']\n"


def identity(folder: Path, **settings: Any) -> str:
    return load(folder, **settings).identity


def test_identity_is_the_same_for_the_same_task_in_another_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_task(tmp_path / place, "doc_to_text: !function utils.text", utils=UTILS)
    assert identity(tmp_path / "one") == identity(tmp_path / "two")


@pytest.mark.parametrize("change", ["data", "utils", "config", "gen_kwargs", "system", "tags"])
def test_identity_changes_with_everything_that_answers_or_scores_depend_on(tmp_path: Path, change: str) -> None:
    write_task(tmp_path / "one", "doc_to_text: !function utils.text", utils=UTILS)
    keys = "doc_to_text: !function utils.text" + ("\nmetadata: {version: 2}" if change == "config" else "")
    documents = QUESTIONS[1:] + QUESTIONS[:1] if change == "data" else QUESTIONS
    utils = UTILS + "# changed\n" if change == "utils" else UTILS
    write_task(tmp_path / "two", keys, documents=documents, utils=utils)
    settings: dict[str, Any] = {
        "gen_kwargs": {"gen_kwargs": {"max_new_tokens": 1}},
        "system": {"system_instruction": "s"},
        "tags": {"reasoning_tags": "none"},
    }.get(change, {})
    assert identity(tmp_path / "one") != identity(tmp_path / "two", **settings)


def test_doc_hash_tells_documents_apart_and_covers_their_media(tmp_path: Path) -> None:
    documents = [{"image": image(value), "label": 1} for value in (1, 2, 1)]
    write_task(tmp_path, "doc_to_text: 'q'\ndoc_to_target: label", documents=documents, features=IMAGES)
    task = load(tmp_path)
    first, second, third = (task.doc_hash(doc_id) for doc_id in range(3))
    assert first == third != second
    assert len(first) == 64


def test_one_bad_document_is_its_own_error_and_does_not_stop_the_task(tmp_path: Path) -> None:
    utils = """
        def text(doc):
            if doc["question"] == "q0":
                raise KeyError("boom")
            return doc["question"]
    """
    write_task(tmp_path, "doc_to_text: !function utils.text", utils=utils)
    task = load(tmp_path)
    assert task.input_text(1) == "q1"
    with pytest.raises(DocumentError, match=r"task toy, document 0: .*KeyError: 'boom'") as raised:
        task.build_request(0)
    assert (raised.value.task, raised.value.doc_id, raised.value.reason) == ("toy", 0, "DOCUMENT_FAILED")


def test_a_corrupt_image_is_its_documents_error(tmp_path: Path) -> None:
    raw = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    good = datasets.Image().encode_example(image(1))
    table = datasets.Dataset.from_list(
        [{"image": good}, {"image": {"bytes": b"not an image", "path": None}}, {"image": good}], features=raw
    )
    write_task(tmp_path, "doc_to_text: q\ndoc_to_visual: image\ndoc_to_target: '1'")
    table.cast(datasets.Features({"image": datasets.Image()})).to_parquet(tmp_path / "toy.parquet")
    task = load(tmp_path)
    assert task.build_request(2).messages
    with pytest.raises(DocumentError, match="document 1: no request could be built: UnidentifiedImageError"):
        task.build_request(1)
    assert task.doc_hash(1) != task.doc_hash(0)


@pytest.mark.parametrize(
    ("keys", "settings", "reason", "message"),
    [
        ("output_type: multiple_choice", {}, "TASK_LOAD_FAILED", "needs doc_to_choice"),
        (
            "output_type: loglikelihood\nprocess_results: !function utils.f\ndoc_to_target: null",
            {},
            "TASK_LOAD_FAILED",
            "needs doc_to_target",
        ),
        ("output_type: generate_until_agentic", {}, "TASK_LOAD_FAILED", "needs a function as doc_to_text"),
        ("output_type: generate_until_multi_round", {}, "TASK_LOAD_FAILED", "a function that makes each round"),
        ("num_fewshot: 6", {}, "TASK_LOAD_FAILED", "num_fewshot 6 needs more documents than the 6 of split 'test'"),
        ("fewshot_config: {sampler: best}", {}, "TASK_LOAD_FAILED", "one of default, first_n, but is 'best'"),
        ("test_split: null", {}, "TASK_LOAD_FAILED", "test_split or a validation_split"),
        ("test_split: dev", {}, "TASK_LOAD_FAILED", "no split 'dev', only test"),
        ("dataset_path: null", {}, "TASK_LOAD_FAILED", "dataset_path is missing"),
        ("doc_to_text: null", {}, "TASK_LOAD_FAILED", "nothing to ask"),
        ("doc_to_target: null", {}, "TASK_LOAD_FAILED", "nothing to compare with"),
        ("doc_to_text: '{{qestion}}'", {}, "TASK_LOAD_FAILED", "'qestion' is undefined"),
        ("doc_to_visual: picture", {}, "TASK_LOAD_FAILED", "picture"),
        ("metric_list: [{metric: acc}]", {}, "TASK_LOAD_FAILED", "'acc' cannot score generated text"),
        ("metric_list: [{metric: nice}]", {}, "TASK_LOAD_FAILED", "'nice' is none of"),
        ("filter_list: [{name: f, filter: [{function: nope}]}]", {}, "TASK_LOAD_FAILED", "'nope' is none of"),
        ("reasoning_tags: [think]", {}, "TASK_LOAD_FAILED", "list of pairs"),
        ("surprise: 1", {}, "TASK_LOAD_FAILED", "toy.yaml: unknown key 'surprise'"),
        ("doc_to_text: !function nowhere.missing", {}, "TASK_LOAD_FAILED", "there is no file"),
        ("", {"offset": 6}, "NO_DOCUMENTS", "lower the offset"),
        ("", {"tasks": ()}, "UNKNOWN_TASK", "tasks is empty"),
    ],
)
def test_a_task_that_cannot_run_says_why(
    tmp_path: Path, keys: str, settings: dict[str, Any], reason: str, message: str
) -> None:
    write_task(tmp_path, keys, utils="def f(doc, results):\n    return {}\n")
    with pytest.raises(EvaluationError, match=message) as raised:
        load(tmp_path, **settings)
    assert raised.value.reason == reason


def test_an_evaluations_fewshot_number_does_not_override_a_task_that_says_zero(tmp_path: Path) -> None:
    write_task(tmp_path, "num_fewshot: 0")
    assert load(tmp_path, num_fewshot=3).num_fewshot == 0


def test_predictions_alone_need_no_target(tmp_path: Path) -> None:
    write_task(tmp_path, "doc_to_target: null")
    assert load(tmp_path, predict_only=True).target(0) is None


def test_repeats_of_the_evaluation_win_over_the_tasks(tmp_path: Path) -> None:
    write_task(tmp_path, "repeats: 3")
    assert load(tmp_path).repeats == 3
    assert load(tmp_path, repeats=5).repeats == 5


def test_a_group_may_change_a_tasks_settings(tmp_path: Path) -> None:
    write_task(tmp_path)
    write_yaml(tmp_path, "g.yaml", "group: g\ndescription: From the group.\ntask: [toy]\n")
    config = EvaluationConfig(model="m", tasks=("g",), include_paths=(tmp_path,))
    (task,) = load_tasks(config)
    assert task.input_text(0).startswith("system: From the group.")

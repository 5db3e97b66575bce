"""Tasks that are Python classes, and few-shot examples in prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.run.evaluate import evaluate
from lmms_eval_grpc.engine.tasks.fewshot import draw_stream
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.task_files import QUESTIONS, datasets_cache, image, load, write_task

__all__ = ["datasets_cache"]

CLASS = """
    from datasets import Dataset, DatasetDict
    from lmms_eval.api.task import ConfigurableTask

    class Own(ConfigurableTask):
        def __init__(self, *args, config=None, **kwargs):
            super().__init__(*args, config=config, **kwargs)

        def download(self, dataset_kwargs=None):
            rows = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(dataset_kwargs["rows"])]
            self.dataset = DatasetDict({self.config.test_split: Dataset.from_list(rows)})

        def doc_to_text(self, doc, lmms_eval_specific_kwargs=None):
            return f"{self.config.metadata['greeting']} {doc['question']}"

    class Plain(ConfigurableTask):
        pass

    class Failing(ConfigurableTask):
        def download(self, dataset_kwargs=None):
            raise FileNotFoundError("set TOY_PATH to the folder of the data")

    def no_class(doc):
        return doc
"""


def test_a_class_brings_its_data_and_its_functions(tmp_path: Path) -> None:
    keys = "class: !function utils.Own\ndataset_kwargs: {rows: 3}\nmetadata: {greeting: hello}\n"
    write_task(tmp_path, keys, utils=CLASS)
    task = load(tmp_path)
    assert task.total_documents == 3
    assert task.input_text(2) == "hello q2"
    assert task.target(2) == "a2"
    assert load(tmp_path).identity == task.identity
    outcome = evaluate(task.evaluation, tmp_path / "run", Recorder(), backend=ScriptedBackend(lambda text: text[-2:]))
    assert outcome.tasks[0].samples_scored == 3


def test_a_class_without_a_download_reads_the_data_of_its_yaml_file(tmp_path: Path) -> None:
    write_task(tmp_path, "class: !function utils.Plain\n", utils=CLASS)
    assert [load(tmp_path).input_text(n) for n in (0, 5)] == ["q0", "q5"]


@pytest.mark.parametrize(
    ("name", "reason", "message"),
    [
        ("Failing", "DATASET_UNAVAILABLE", "Failing failed: FileNotFoundError: set TOY_PATH"),
        ("no_class", "TASK_LOAD_FAILED", "class must name a Python class"),
    ],
)
def test_a_class_that_fails_says_why(tmp_path: Path, name: str, reason: str, message: str) -> None:
    write_task(tmp_path, f"class: !function utils.{name}\n", utils=CLASS)
    with pytest.raises(EvaluationError, match=message) as raised:
        load(tmp_path)
    assert raised.value.reason == reason


def roles(messages: Any) -> list[tuple[str, str]]:
    return [(message["role"], "".join(item.get("text", "*") for item in message["content"])) for message in messages]


def test_examples_may_be_turns_of_their_own(tmp_path: Path) -> None:
    write_task(tmp_path, "fewshot_config: {sampler: first_n}\ndescription: Answer.")
    task = load(tmp_path, num_fewshot=2, fewshot_as_multiturn=True)
    assert roles(task.conversation(0)) == [
        ("system", "Answer."),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "q2"),
        ("assistant", "a2"),
        ("user", "q0"),
    ]
    assert task.prompt_policy["fewshot"] == "turns"


def test_examples_bring_their_images(tmp_path: Path) -> None:
    import datasets

    documents = [{"image": image(value), "label": str(value)} for value in range(3)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    keys = "doc_to_visual: image\ndoc_to_text: 'Value?'\ndoc_to_target: label\nfewshot_config: {sampler: first_n}"
    write_task(tmp_path, keys, documents=documents, features=features)
    (message,) = load(tmp_path, num_fewshot=1).conversation(2)
    kinds = [item["url"].getpixel((0, 0)) if item["type"] == "image" else item["text"] for item in message["content"]]
    assert kinds == [0, "Value? 0\n\n", 2, "Value?"]


def test_a_tasks_own_messages_get_examples_too(tmp_path: Path) -> None:
    utils = """
        def messages(doc):
            system = {"role": "system", "content": [{"type": "text", "text": "rules"}]}
            return [system, {"role": "user", "content": [{"type": "text", "text": f"<{doc['question']}>"}]}]
    """
    write_task(tmp_path, "doc_to_messages: !function utils.messages\nfewshot_config: {sampler: first_n}", utils=utils)
    plain = load(tmp_path, num_fewshot=1).conversation(3)
    assert roles(plain) == [("system", "rules"), ("user", "<q0> a0\n\n<q3>")]
    turns = load(tmp_path, num_fewshot=1, fewshot_as_multiturn=True).conversation(3)
    assert roles(turns) == [("system", "rules"), ("user", "<q0>"), ("assistant", "a0"), ("user", "<q3>")]


def chosen(folder: Path, **settings: Any) -> list[list[int]]:
    task = load(folder, num_fewshot=2, **settings)
    assert task.fewshot is not None
    return [task.fewshot.choose(doc_id) for doc_id in task.doc_ids(settings.get("limit"), settings.get("offset", 0))]


def test_examples_depend_on_the_seed_and_the_document_alone(tmp_path: Path) -> None:
    write_task(tmp_path, documents=QUESTIONS * 5)
    all_of_them = chosen(tmp_path)
    assert len({tuple(picks) for picks in all_of_them}) > 10
    assert all(len(set(picks)) == 2 and doc_id not in picks for doc_id, picks in enumerate(all_of_them))
    assert chosen(tmp_path, offset=7, limit=3) == all_of_them[7:10]
    assert chosen(tmp_path, seed=(0, 0, 0, 1234)) == all_of_them
    assert chosen(tmp_path, seed=(0, 0, 0, 1)) != all_of_them


def test_lmms_evals_stream_of_examples_can_be_had(tmp_path: Path) -> None:
    write_task(tmp_path, documents=QUESTIONS * 5)
    compat = frozenset({"fewshot_stream"})
    whole, later = chosen(tmp_path, compat=compat), chosen(tmp_path, compat=compat, offset=7)
    assert whole != chosen(tmp_path)
    assert later != whole[7:]
    task = load(tmp_path, num_fewshot=2, compat=compat)
    assert task.fewshot is not None
    assert draw_stream(task.fewshot, range(30)) == task.fewshot.stream


def test_a_task_that_says_none_has_none_and_its_own_number_counts_else(tmp_path: Path) -> None:
    write_task(tmp_path, "num_fewshot: 0", name="none")
    write_task(tmp_path, "num_fewshot: 1", name="one")
    assert load(tmp_path, "none", num_fewshot=3).num_fewshot == 0
    assert load(tmp_path, "one").num_fewshot == 1
    assert load(tmp_path, "one").identity != load(tmp_path, "one", fewshot_as_multiturn=True).identity

"""5. The text of prompts with examples, byte for byte.

``golden_contexts.json`` holds lmms-eval 0.7.3's contexts. Where both splits are one it gives some documents an example
too few; here each has as many as were asked for (see docs/compatibility.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.tasks.load import load_tasks
from lmms_eval_grpc.engine.tasks.task import Task
from tests.support.task_files import datasets_cache

__all__ = ["datasets_cache"]

GOLDEN = json.loads(Path(__file__).with_name("golden_contexts.json").read_text())
DOCUMENTS = GOLDEN["documents"]


def load(folder: Path, values: dict[str, Any], **settings: Any) -> Task:
    training = [{**row, "question": f"t{row['question']}", "answer": f"T{row['answer']}"} for row in DOCUMENTS]
    for name, rows in (("rows", DOCUMENTS), ("train", training)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "t",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl", "train": "train.jsonl"}},
        "test_split": "test",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "fewshot_config": {"sampler": "first_n"},
        **values,
    }
    (folder / "t.yaml").write_text(json.dumps(task))
    (made,) = load_tasks(EvaluationConfig("huggingface", ("t",), include_paths=(folder,), **settings))
    return made


@pytest.mark.parametrize("case", [case for case in GOLDEN["cases"] if case["config"] or not case["num_fewshot"]])
def test_contexts_are_lmms_evals(case: dict[str, Any], tmp_path: Path) -> None:
    task = load(tmp_path, case["config"], num_fewshot=case["num_fewshot"])
    assert [task.input_text(doc_id) for doc_id in range(3)] == case["contexts"]
    for doc_id in range(3):
        (message,) = task.conversation(doc_id)
        assert [item["type"] for item in message["content"]] == ["text"]


def test_a_document_is_never_its_own_example_and_none_is_missing(tmp_path: Path) -> None:
    task = load(tmp_path, {}, num_fewshot=2)
    assert [task.input_text(doc_id) for doc_id in range(3)] == [
        "q1 bb\n\nq2 aa\n\nq0",
        "q0 a0\n\nq2 aa\n\nq1",
        "q0 a0\n\nq1 bb\n\nq2",
    ]


def test_instruction_and_description_are_one_system_message_joined_by_the_delimiter(tmp_path: Path) -> None:
    values = {"description": "About {{question}}.", "fewshot_delimiter": "\n--\n"}
    task = load(tmp_path, values, system_instruction="SYS")
    system, user = task.conversation(1)
    assert system["role"] == "system"
    assert system["content"][0]["text"] == "SYS\n--\nAbout q1."
    assert user["content"] == [{"type": "text", "text": "q1"}]

"""4. ``doc_to_*``: columns, templates, digits with choices, list literals, arity of functions.

``golden_documents.json`` holds what lmms-eval 0.7.3's own task makes of these settings and documents.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.tasks import document_values
from lmms_eval_grpc.engine.tasks.config import TaskConfig, parse_task_config

GOLDEN = json.loads(Path(__file__).with_name("golden_documents.json").read_text())
DOCUMENTS = GOLDEN["documents"]
COLUMNS = tuple(DOCUMENTS[0])


def config(**values: Any) -> TaskConfig:
    return parse_task_config({"task": "t", "doc_to_text": "question", "doc_to_target": "answer", **values}, "t.yaml")


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: json.dumps(case["config"]))
def test_values_are_lmms_evals(case: dict[str, Any]) -> None:
    made = config(**case["config"])
    assert [document_values.doc_to_text(made, COLUMNS, row) for row in DOCUMENTS] == case["text"]
    assert [document_values.doc_to_target(made, COLUMNS, row) for row in DOCUMENTS] == case["target"]
    if "choice" in case:
        assert [document_values.doc_to_choice(made, COLUMNS, row) for row in DOCUMENTS] == case["choice"]


def test_functions_get_the_arguments_that_they_take() -> None:
    def text(doc: Any, kwargs: Any = None) -> str:
        return f"{doc['question']} {kwargs}"

    def one(doc: Any) -> list[str]:
        return [doc["question"]]

    def two(doc: Any, kwargs: Any) -> list[Any]:
        return [doc["question"], kwargs]

    kwargs, row = {"a": 1}, DOCUMENTS[0]
    with_kwargs = config(doc_to_text=text, lmms_eval_specific_kwargs=kwargs)
    assert document_values.doc_to_text(with_kwargs, COLUMNS, row) == "q0 {'a': 1}"
    assert document_values.doc_to_text(config(doc_to_text=text), COLUMNS, row) == "q0 None"
    for function, expected in ((one, ["q0"]), (two, ["q0", kwargs])):
        made = config(doc_to_visual=function, lmms_eval_specific_kwargs=kwargs)
        assert document_values.doc_to_visual(made, COLUMNS, row) == expected
    made = config(doc_to_target=lambda doc, given: given, model_specific_target_kwargs=kwargs)
    assert document_values.doc_to_target(made, COLUMNS, row) == kwargs


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("doc", ()),
        ("doc, kwargs", ("kwargs",)),
        ("doc, lmms_eval_specific_kwargs=None, extra=None", ("lmms_eval_specific_kwargs",)),
        ("doc, **more", ("more",)),
        ("doc, a=None, b=None", ()),
    ],
)
def test_doc_to_messages_gets_kwargs_by_its_signature(parameters: str, expected: tuple[str, ...]) -> None:
    scope: dict[str, Any] = {}
    exec(f"def function({parameters}):\n    return {{k: v for k, v in locals().items() if v and k != 'doc'}}", scope)
    made = config(doc_to_messages=scope["function"], lmms_eval_specific_kwargs={"a": 1})
    assert tuple(document_values.doc_to_messages(made, DOCUMENTS[0])) == expected

"""7. Filters: a golden file of every registered filter over odd inputs, and alignment under shards.

``golden_filters.json`` holds what lmms-eval 0.7.3's own filters made of these inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.scoring.filters import Pipeline, build_pipelines
from lmms_eval_grpc.engine.scoring.process import score_sample
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]

GOLDEN = json.loads(Path(__file__).with_name("golden_filters.json").read_text())
DOCUMENT = {"choices": ["red", "Green leaf", "blue."]}


def pipeline(step: Mapping[str, Any]) -> Pipeline:
    (built,) = build_pipelines([{"name": "f", "filter": [step]}], strip_thinking_first=False)
    return built


def test_every_filter_gives_lmms_evals_result() -> None:
    filters = {case["function"] for case in GOLDEN}
    assert filters == {
        "take_first", "take_first_k", "majority_vote", "regex", "multi_choice_regex", "remove_whitespace", "lowercase",
        "uppercase", "map", "strip_thinking",
    }  # fmt: skip
    wrong = []
    for case in GOLDEN:
        result = pipeline({"function": case["function"], **case["arguments"]}).apply(case["responses"], DOCUMENT)
        if result != case["expected"]:
            wrong.append((case, result))
    assert not wrong


def test_a_document_meets_its_own_responses_whatever_the_offset_and_the_shard(tmp_path: Path) -> None:
    """lmms-eval pairs the first responses of a shard with the first documents of the split."""
    documents = [
        {"question": f"q{i}", "answer": f"({'ABC'[i % 3]})", "choices": [f"word{i + j}" for j in range(3)]}
        for i in range(12)
    ]
    keys = """
        filter_list:
          - name: letter
            filter: [{function: multi_choice_regex, regex_pattern: 'never'}, {function: take_first}]
    """
    write_task(tmp_path, keys, documents=documents)
    task = load(tmp_path)
    for shard in range(3):
        for doc_id in list(task.doc_ids(offset=2))[shard::3]:
            (score,) = score_sample(task, doc_id, [f"It is word{doc_id + doc_id % 3}."])
            assert score.filtered_responses == (documents[doc_id]["answer"],)
            assert score.scores == {"exact_match": 1.0}

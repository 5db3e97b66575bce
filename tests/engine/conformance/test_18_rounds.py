"""18. Multi-round and agentic callbacks: a scripted model's transcripts, and the payload of an unfinished episode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationOutcome
from lmms_eval_grpc.engine.run.evaluate import SAMPLES, evaluate
from lmms_eval_grpc.engine.run.log import read_sound_lines
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, write_task

__all__ = ["datasets_cache"]

DOCUMENTS = [{"question": f"q{number}", "answer": "a", "rounds": 1 + number % 3} for number in range(5)]
SCORES = "metric_list: [{metric: rounds, aggregation: mean, higher_is_better: true}]\n"

BY_MESSAGES = """
    def messages(doc, lmms_eval_specific_kwargs=None, round_idx=None, previous_output=None, previous_round_info=None):
        if round_idx is None:
            return [{"role": "user", "content": [{"type": "text", "text": doc["question"]}]}]
        if round_idx >= doc["rounds"]:
            return None, True, previous_output, previous_round_info
        text = f"{doc['question']} round {round_idx} after {previous_output} knowing {previous_round_info}"
        turn = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        return turn, False, previous_output, (previous_round_info or 0) + 1

    def process_results(doc, results):
        assert len(results) == 1
        return {"rounds": float(len(results[0]) == doc["rounds"])}
"""
BY_TEXT = """
    def text(doc, lmms_eval_specific_kwargs=None, round_idx=None, previous_output=None, previous_round_info=None):
        if round_idx is None:
            return doc["question"]
        done = round_idx >= doc["rounds"]
        return None, f"{doc['question']} round {round_idx}", done, previous_output, previous_round_info

    def process_results(doc, results):
        return {"rounds": float(len(results[0]) == doc["rounds"])}
"""
AGENT = """
    def text(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None, previous_round_info=None):
        if round_idx is None:
            return f"{doc['question']} step 0"
        info = previous_round_info or {"state": {"cash": 10, "secret": 1}, "tool_calls": 0}
        info["tool_calls"] += 1
        info["state"]["cash"] -= 1
        if round_idx >= doc["rounds"] + 1:
            return None, None, True, ['{"success": true}'], info
        return None, f"{doc['question']} step {round_idx}", False, previous_output, info

    def process_results(doc, results):
        (answer,) = results
        return {"rounds": float('"success": true' in answer)}
"""


def run(
    folder: Path, keys: str, utils: str, backend: ScriptedBackend, reporter: Recorder | None = None, **changes: Any
) -> EvaluationOutcome:
    if not (folder / "toy.yaml").exists():
        write_task(folder, keys + SCORES + "process_results: !function utils.process_results\n",
                   documents=DOCUMENTS, utils=utils)  # fmt: skip
    config = EvaluationConfig("huggingface", ("toy",), {"pretrained": "none"}, include_paths=(folder,), **changes)
    return evaluate(config, folder / "run", reporter or Recorder(), backend=backend)


def responses(folder: Path) -> list[Any]:
    lines = sorted(read_sound_lines(folder / "run" / SAMPLES)[1], key=lambda line: line["doc_id"])
    return [json.loads(line["responses"][0]) for line in lines]


ROUNDS = "output_type: generate_until_multi_round\n"


def test_rounds_of_all_documents_go_side_by_side(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda text: text.split()[0].upper(), batch_size=8)
    outcome = run(tmp_path, ROUNDS + "doc_to_messages: !function utils.messages\n", BY_MESSAGES, backend)
    assert outcome.tasks[0].metrics[0].value == 1.0
    first, second, third = backend.prompts
    assert first == ["q0", "q1", "q2", "q3", "q4"]
    assert second == [f"q{n} round 1 after ['Q{n}'] knowing None" for n in (1, 2, 4)]
    assert third == ["q2 round 2 after ['Q2', 'Q2'] knowing 1"]
    assert responses(tmp_path) == [["Q0"], ["Q1", "Q1"], ["Q2", "Q2", "Q2"], ["Q3"], ["Q4", "Q4"]]


def test_rounds_may_come_from_doc_to_text(tmp_path: Path) -> None:
    backend = ScriptedBackend(str.upper, batch_size=8)
    outcome = run(tmp_path, ROUNDS + "doc_to_text: !function utils.text\n", BY_TEXT, backend)
    assert outcome.tasks[0].metrics[0].value == 1.0
    assert backend.prompts[1:] == [["q1 round 1", "q2 round 1", "q4 round 1"], ["q2 round 2"]]


def test_an_error_in_one_conversation_leaves_the_others(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda text: OSError("broken") if text == "q4 round 1" else text, batch_size=8)
    documents = DOCUMENTS * 5  # one of 25 is within the tolerance
    keys = ROUNDS + SCORES + "doc_to_text: !function utils.text\nprocess_results: !function utils.process_results\n"
    write_task(
        tmp_path, keys, documents=[{**row, "question": f"q{n}"} for n, row in enumerate(documents)], utils=BY_TEXT
    )
    (score,) = run(tmp_path, "", "", backend).tasks
    assert (score.samples_scored, score.samples_errored) == (24, 1)
    assert score.metrics[0].value == 1.0


def test_interrupted_conversations_are_begun_again_and_finished_ones_not(tmp_path: Path) -> None:
    keys = ROUNDS + "doc_to_messages: !function utils.messages\n"
    with pytest.raises(EvaluationCancelled):
        run(tmp_path, keys, BY_MESSAGES, ScriptedBackend(str.upper, batch_size=8), Recorder(cancel_at=2))
    again = ScriptedBackend(str.upper, batch_size=8)
    assert run(tmp_path, keys, BY_MESSAGES, again).tasks[0].metrics[0].value == 1.0
    assert again.prompts[0] == ["q1", "q2", "q4"]


AGENTIC = """
    output_type: generate_until_agentic
    doc_to_text: !function utils.text
    generation_kwargs: {max_new_tokens: 8, max_agentic_steps: 3}
"""


def dedented(text: str) -> str:
    return "".join(line.strip() + "\n" for line in text.strip().splitlines())


def test_episodes_end_by_the_task_or_with_the_fallback_payload(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Backend(ScriptedBackend):
        def generate(self, requests: Any) -> Any:
            seen.extend(dict(requests[index].generation) for index in range(len(requests)))
            yield from super().generate(requests)

    backend = Backend(lambda text: f"did {text}", batch_size=8)
    outcome = run(tmp_path, dedented(AGENTIC), AGENT, backend)
    assert backend.prompts[1] == [f"q{n} step 1" for n in range(5)]
    assert backend.prompts[2] == [f"q{n} step 2" for n in (1, 2, 4)]
    assert len(backend.prompts) == 3
    assert all("max_agentic_steps" not in generation for generation in seen)
    answers = responses(tmp_path)
    assert answers[0] == {"success": True}
    assert answers[2] == {
        "success": False,
        "error": "max_agentic_steps_reached",
        "tool_calls": 3.0,
        "valid_tool_calls": 3.0,
        "invalid_steps": 0.0,
        "state": {"cash": 7, "secret": 1},
        "last_model_output": "did q2 step 2",
        "trace": ["did q2 step 0", "did q2 step 1", "did q2 step 2"],
        "cash": 7,
    }
    assert outcome.tasks[0].metrics[0].value == 4 / 5


def test_the_full_trace_mode_adds_the_rounds(tmp_path: Path) -> None:
    run(tmp_path, dedented(AGENTIC), AGENT, ScriptedBackend(lambda text: f"did {text}"), agentic_trace_mode="full")
    answer = responses(tmp_path)[0]
    assert answer["agentic_trace_mode"] == "full"
    assert answer["agentic_rounds"] == [
        {
            "round_idx": 1,
            "round_input": "q0 step 0",
            "model_output": "did q0 step 0",
            "terminal": False,
            "state": {"cash": 9, "secret": 1},
            "tool_result": None,
            "tool_calls": 1,
            "valid_tool_calls": None,
            "invalid_steps": None,
            "next_input": "q0 step 1",
        },
        {
            "round_idx": 2,
            "round_input": "q0 step 1",
            "model_output": "did q0 step 1",
            "terminal": True,
            "state": {"cash": 8, "secret": 1},
            "tool_result": None,
            "tool_calls": 2,
            "valid_tool_calls": None,
            "invalid_steps": None,
        },
    ]

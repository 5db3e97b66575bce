"""20. Judge: timeouts and malformed answers leave the sample unscored, and visible in the count of errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.judge.cache import use_cache
from lmms_eval_grpc.engine.run.evaluate import SAMPLES, evaluate
from lmms_eval_grpc.engine.scoring.pool import score_samples
from tests.support.backends import ScriptedBackend
from tests.support.judge_server import Asked, JudgeHandle, Reply, running_judge
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]

UTILS = """
from lmms_eval_grpc.engine.judge.protocol import ServerConfig
from lmms_eval_grpc.engine.judge.server import get_server

server = get_server("local", ServerConfig("judge", timeout=1.5, num_retries=2, retry_delay=0.01))


def process(doc, results):
    verdict = server.evaluate_binary(doc["question"], doc["answer"], results[0])
    return {"right": float(verdict["result"])}


def process_and_hide(doc, results):
    try:
        return process(doc, results)
    except Exception:
        return {"right": 0.0}  # what many tasks do: a failure becomes a wrong answer
"""


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeHandle]:
    with running_judge() as handle:
        monkeypatch.setenv("LLM_JUDGE_URL", handle.url)
        use_cache(None)  # an evaluation in this process may have set one
        # The default policy would end an evaluation of so few samples.
        monkeypatch.setattr("lmms_eval_grpc.engine.run.task_run.check_errors", lambda *args, **kwargs: None)
        yield handle


@pytest.mark.parametrize("function", ["process", "process_and_hide"])
def test_samples_without_a_judgement_are_unscored_and_counted(
    judge: JudgeHandle, tmp_path: Path, function: str
) -> None:
    def answer(asked: Asked) -> Reply:
        if "q1" in asked.text:
            return Reply(delay=5)
        if "q2" in asked.text:
            return Reply("I would rather not say.")
        if "q3" in asked.text:
            return Reply(status=500)
        return Reply("0" if "q4" in asked.text else "1")

    judge.answer = answer
    keys = f"""
        process_results: !function utils.{function}
        metric_list: [{{metric: right, aggregation: mean, higher_is_better: true}}]
    """
    write_task(tmp_path / "tasks", keys, utils=UTILS)
    config = EvaluationConfig("echo", ("toy",), include_paths=(tmp_path / "tasks",))
    outcome = evaluate(config, tmp_path / "run", Recorder(), backend=ScriptedBackend(lambda text: text))
    (score,) = outcome.tasks
    assert (score.samples_asked, score.samples_scored, score.samples_errored) == (6, 3, 3)
    (metric,) = score.metrics
    assert (metric.value, metric.sample_count) == (pytest.approx(2 / 3), 3)
    assert outcome.results_document["sample_counts"]["toy"] == {"asked": 6, "scored": 3, "errored": 3, "skipped": 0}
    records = {}
    for line in (tmp_path / "run" / SAMPLES).read_text().splitlines():
        record = json.loads(line)
        records[record["doc_id"]] = record
    assert {doc_id: record["outcome"] for doc_id, record in sorted(records.items())} == {
        0: "ok", 1: "judge_error", 2: "judge_error", 3: "judge_error", 4: "ok", 5: "ok"
    }  # fmt: skip
    assert "TIMEOUT" in records[1]["error"]
    assert "MALFORMED_JUDGEMENT" in records[2]["error"]
    assert "UNAVAILABLE" in records[3]["error"]
    assert records[1]["responses"] == ["q1"]


def test_an_error_of_the_tasks_own_is_no_judges_fault(judge: JudgeHandle, tmp_path: Path) -> None:
    keys = """
        process_results: !function utils.broken
        metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
    """
    utils = UTILS + '\n\ndef broken(doc, results):\n    return {"right": process(doc, results)["absent"]}\n'
    write_task(tmp_path / "tasks", keys, utils=utils)
    config = EvaluationConfig("echo", ("toy",), include_paths=(tmp_path / "tasks",), limit=1)
    evaluate(config, tmp_path / "run", Recorder(), backend=ScriptedBackend(lambda text: text))
    (line,) = (tmp_path / "run" / SAMPLES).read_text().splitlines()
    assert json.loads(line)["outcome"] == "scoring_error"


def test_many_judgements_are_asked_for_at_once(judge: JudgeHandle, tmp_path: Path) -> None:
    judge.answer = lambda asked: Reply("1", delay=0.1)
    keys = """
        process_results: !function utils.process
        metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
    """
    documents = [{"question": f"q{i}", "answer": "a"} for i in range(20)]
    write_task(tmp_path, keys, utils=UTILS, documents=documents)
    outcomes = list(score_samples(load(tmp_path), [(doc_id, ["a"]) for doc_id in range(20)], workers=5))
    assert [doc_id for doc_id, _ in outcomes] == list(range(20))
    assert all(isinstance(outcome, tuple) for _, outcome in outcomes)
    assert 1 < judge.most_open <= 5


def test_an_attempt_that_is_taken_up_pays_no_judge_twice(judge: JudgeHandle, tmp_path: Path) -> None:
    keys = """
        process_results: !function utils.process
        metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
    """
    write_task(tmp_path / "tasks", keys, utils=UTILS)
    config = EvaluationConfig("echo", ("toy",), include_paths=(tmp_path / "tasks",))
    first, again = (
        evaluate(config, tmp_path / "run", Recorder(), backend=ScriptedBackend(lambda text: text)) for _ in range(2)
    )
    assert len(judge.asked) == 6
    assert [score.metrics for score in again.tasks] == [score.metrics for score in first.tasks]
    usage = first.results_document["usage"]["by_source"]["judge"]
    tokens = {"input_tokens": 66, "output_tokens": 12, "reasoning_tokens": 0, "total_tokens": 78}
    assert usage == {**tokens, "n_api_calls": 6}
    (asked,) = first.manifest["judges"].values()
    assert asked == {"requests": 6, "from_cache": 0}
    # The second attempt took all judgements from the first one's.
    (asked,) = again.manifest["judges"].values()
    assert asked == {"requests": 0, "from_cache": 6}
    whole = first.results_document["usage"]["total"]
    model = first.results_document["usage"]["by_source"]["model"]
    assert whole["total_tokens"] == model["total_tokens"] + 78

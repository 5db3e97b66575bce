"""The benchmarks that can use a judge, against a real OpenAI-compatible server on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.scoring.process import ScoringError
from tests.engine.benchmarks.made import document, load_benchmark, scores, totals
from tests.engine.benchmarks.test_mathvista import problem
from tests.engine.benchmarks.test_multiple_choice import mmbench_document
from tests.engine.benchmarks.test_yes_no import hallusion
from tests.support.task_files import datasets_cache

__all__ = ["datasets_cache"]


class Judge:
    """Answers every question with ``reply``; keeps the questions."""

    def __init__(self) -> None:
        self.reply = ""
        self.status = 200
        self.questions: list[dict[str, Any]] = []


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Judge]:
    state = Judge()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.questions.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps({"model": "judge", "choices": [{"message": {"content": state.reply}}]}).encode()
            self.send_response(state.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("LMMS_EVAL_GRPC_JUDGE_MODEL", "judge-1")
    monkeypatch.setenv("OPENAI_API_URL", f"http://127.0.0.1:{server.server_port}/v1/chat/completions")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.delenv("API_TYPE", raising=False)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("reply", "right"), [("Correct", 1), ("incorrect.", 0), ("unclear", 0)])
def test_hallusion_bench_judged(tmp_path: Path, judge: Judge, reply: str, right: int) -> None:
    judge.reply = reply
    task = load_benchmark(tmp_path, "hallusion_bench_image", [hallusion(0, 0, "1")])
    values = totals(task, ["Indeed."])
    assert {name: values[name] for name in ("aAcc", "qAcc", "fAcc")} == dict.fromkeys(
        ("aAcc", "qAcc", "fAcc"), 100.0 * right
    )
    assert values["aAcc_parsed"] == 0
    assert judge.questions[0]["model"] == "judge-1"
    assert "Reference answer: A is larger than B.\nPrediction answer:Indeed." in str(
        judge.questions[0]["messages"][0]["content"]
    )


def test_mathvista_asks_only_about_answers_that_are_no_bare_value(tmp_path: Path, judge: Judge) -> None:
    judge.reply = "42"
    task = load_benchmark(tmp_path, "mathvista_testmini_cot", [problem(), problem()], family="mathvista_testmini")
    assert totals(task, ["7", "Forty-two, clearly"])["llm_as_judge_eval"] == 50.0
    (asked,) = judge.questions
    assert asked["messages"][0]["content"].endswith("Forty-two, clearly\n\nExtracted answer: ")


def test_mmbench_asks_only_about_answers_that_the_rules_leave_open(tmp_path: Path, judge: Judge) -> None:
    judge.reply = "B"
    task = load_benchmark(tmp_path, "mmbench_en_dev", [mmbench_document(1, "A"), mmbench_document(2, "B")])
    given = ["A", "the colour of the sky"]
    assert totals(task, given) == {"gpt_eval_score": 100.0, "undecided_by_rules": 0.5}
    assert len(judge.questions) == 1


def test_the_rules_only_variant_never_asks(tmp_path: Path, judge: Judge) -> None:
    documents = [mmbench_document(1, "A")]
    task = load_benchmark(tmp_path, "mmbench_en_dev_static", documents, family="mmbench_en_dev")
    scores(task, ["the colour of the sky"])
    assert judge.questions == []


@pytest.mark.parametrize("status", [200, 400])
def test_without_a_judgement_the_sample_is_unscored(tmp_path: Path, judge: Judge, status: int) -> None:
    judge.status, judge.reply = status, ""
    task = load_benchmark(tmp_path, "hallusion_bench_image", [document("hallusion_bench_image") | hallusion(0, 0, "1")])
    with pytest.raises(ScoringError) as failure:
        scores(task, ["yes"])
    assert failure.value.outcome == "judge_error"

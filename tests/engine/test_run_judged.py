"""A task whose scorer asks a judge: the model goes on meanwhile, and nothing else is different."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.judge.cache import current_cache, use_cache
from lmms_eval_grpc.engine.run.evaluate import JUDGE_CACHE, SAMPLES, evaluate
from lmms_eval_grpc.engine.scoring.pool import JUDGE_WORKERS, ScoringPool
from tests.support import scripted_run
from tests.support.backends import ScriptedBackend
from tests.support.judge_server import Asked, JudgeHandle, Reply, running_judge
from tests.support.reporters import Recorder
from tests.support.scripted_run import config_for, echo
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
"""Seconds after which a test gives up on an event that nothing but a defect keeps from happening."""

DOCUMENTS = [{"question": f"<q{number}>", "answer": "a"} for number in range(24)]
KEYS = """
    process_results: !function utils.process
    metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
"""
UTILS = """
import sys

from lmms_eval_grpc.engine.judge.protocol import ServerConfig
from lmms_eval_grpc.engine.judge.server import get_server

server = get_server("local", ServerConfig("judge", timeout=300, num_retries=1))


def process(doc, results):
    verdict = server.evaluate_binary(doc["question"], doc["answer"], results[0])
    if verdict["raw_response"] == "0 leave":
        sys.exit("enough")
    return {"right": float(verdict["result"])}
"""


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeHandle]:
    with running_judge() as handle:
        monkeypatch.setenv("LLM_JUDGE_URL", handle.url)
        use_cache(None)
        yield handle
        use_cache(None)


@pytest.fixture
def toy(tmp_path: Path) -> EvaluationConfig:
    write_task(tmp_path / "tasks", KEYS, documents=DOCUMENTS, utils=UTILS)
    return config_for(tmp_path / "tasks")


def samples_in(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / SAMPLES).read_text().splitlines()]


def number_of(asked: Asked) -> int:
    """Which document's question was asked."""
    return int(asked.text.split("<q")[1].split(">")[0])


def wait_until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


DRAWING = """
import asyncio
import random

import numpy as np

from lmms_eval_grpc.engine.judge.protocol import Request, ServerConfig
from lmms_eval_grpc.engine.judge.server import get_server

server = get_server("local", ServerConfig("judge", timeout=300, num_retries=1))


def process(doc, results):
    drawn = random.random() + np.random.random()
    server.evaluate_binary(doc["question"], doc["answer"], results[0])
    drawn += random.random()
    questions = [Request(messages=[{"role": "user", "content": f"{part} of {doc['question']}"}]) for part in "ab"]
    asyncio.run(server.evaluate_batch(questions))
    return {"right": drawn + np.random.random()}
"""


def test_what_scorers_draw_around_their_questions_follows_from_the_document_alone(
    judge: JudgeHandle, tmp_path: Path
) -> None:
    write_task(tmp_path / "tasks", KEYS, documents=DOCUMENTS, utils=DRAWING)
    # Later documents are answered sooner, so that scorers take turns in another order than they began in.
    judge.answer = lambda asked: Reply("1", delay=(24 - number_of(asked)) / 100)
    evaluate(config_for(tmp_path / "tasks"), tmp_path / "run", Recorder(), backend=ScriptedBackend(echo))
    assert judge.most_open > 1
    scores = {sample["doc_id"]: sample["scores"]["right"] for sample in samples_in(tmp_path / "run")}
    assert len(scores) == 24
    for doc_id, score in scores.items():
        python, numpy = random.Random(f"0 {doc_id}"), np.random.RandomState([1234, doc_id])
        assert score == python.random() + numpy.random_sample() + python.random() + numpy.random_sample(), doc_id


def test_the_model_goes_on_while_many_judgements_are_waited_for(
    judge: JudgeHandle, toy: EvaluationConfig, tmp_path: Path
) -> None:
    all_generated = threading.Event()

    def reply(text: str) -> str:
        if text == "<q23>":
            all_generated.set()
        return text

    def answer(asked: Asked) -> Reply:
        if number_of(asked) == 0:  # it shows that the task asks judges
            return Reply("1")
        if not all_generated.wait(PATIENCE):
            return Reply(status=400)  # the judge was waited for before the model went on
        if number_of(asked) <= JUDGE_WORKERS and not wait_until(lambda: judge.most_open >= JUDGE_WORKERS):
            return Reply(status=400)
        return Reply("1" if number_of(asked) % 2 else "0")

    judge.answer = answer
    outcome = evaluate(toy, tmp_path / "run", Recorder(), backend=ScriptedBackend(reply))
    assert (outcome.tasks[0].samples_scored, outcome.tasks[0].samples_errored) == (24, 0)
    assert outcome.tasks[0].metrics[0].value == 13 / 24
    assert judge.most_open == JUDGE_WORKERS
    assert len(judge.asked) == 24
    assert [sample["doc_id"] for sample in samples_in(tmp_path / "run")] == list(range(24)), "in the model's order"


def test_whatever_order_judges_answer_in_the_record_is_the_same(
    judge: JudgeHandle, toy: EvaluationConfig, tmp_path: Path
) -> None:
    config = replace(toy, max_error_share=0.5)
    answered: set[int] = set()

    def backwards(asked: Asked) -> Reply:
        """Of each ten questions the newest is answered first."""
        number = number_of(asked)
        last = min(10 * ((number + 9) // 10), 23)
        wait_until(lambda: number in (0, last) or number + 1 in answered)
        answered.add(number)
        return verdict(asked)

    def verdict(asked: Asked) -> Reply:
        number = number_of(asked)
        return Reply(status=400) if number == 7 else Reply("perhaps" if number == 12 else str(number % 2))

    outcomes = []
    for name, answer in (("backwards", backwards), ("at once", verdict)):
        judge.answer = answer
        outcomes.append(evaluate(config, tmp_path / name, Recorder(), backend=ScriptedBackend(echo, batch_size=5)))
    assert outcomes[0].tasks[0].metrics == outcomes[1].tasks[0].metrics
    assert samples_in(tmp_path / "backwards") == samples_in(tmp_path / "at once")
    failed = {sample["doc_id"]: sample["outcome"] for sample in samples_in(tmp_path / "at once") if sample["error"]}
    assert failed == {7: "judge_error", 12: "judge_error"}
    assert len(judge.asked) == 48


def test_a_job_that_is_cancelled_waits_for_no_judge(judge: JudgeHandle, toy: EvaluationConfig, tmp_path: Path) -> None:
    release = threading.Event()

    def answer(asked: Asked) -> Reply:
        if number_of(asked):
            release.wait(PATIENCE)
        return Reply("1")

    judge.answer = answer
    try:
        with pytest.raises(EvaluationCancelled):
            evaluate(toy, tmp_path / "run", Recorder(cancel_at=24), backend=ScriptedBackend(echo))
        assert not release.is_set()
        assert judge.open > 0, "questions are still open"
    finally:
        release.set()
    backend = ScriptedBackend(echo)
    outcome = evaluate(toy, tmp_path / "run", Recorder(), backend=backend)
    assert backend.asked == []
    assert outcome.tasks[0].samples_scored == 24


def test_a_judge_that_fails_too_often_ends_the_job(judge: JudgeHandle, toy: EvaluationConfig, tmp_path: Path) -> None:
    judge.answer = lambda asked: Reply("1") if number_of(asked) < 4 else Reply("I cannot say.")
    with pytest.raises(EvaluationError, match=r"2 of 24 samples failed.*MALFORMED_JUDGEMENT") as caught:
        evaluate(toy, tmp_path / "run", Recorder(), backend=ScriptedBackend(echo))
    assert caught.value.reason == "TOO_MANY_ERRORS"


def test_after_kill_9_no_judgement_that_was_given_is_paid_for_again(
    judge: JudgeHandle, toy: EvaluationConfig, tmp_path: Path
) -> None:
    release = threading.Event()
    given = 6

    def answer(asked: Asked) -> Reply:
        if number_of(asked) >= given:
            release.wait(PATIENCE)
        return Reply("1")

    def judgements_on_disk() -> int:
        try:
            with sqlite3.connect(tmp_path / "run" / JUDGE_CACHE) as connection:
                return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
        except sqlite3.Error:
            return 0
        finally:
            connection.close()

    judge.answer = answer
    command = [sys.executable, scripted_run.__file__, str(tmp_path / "tasks"), str(tmp_path / "run"), "-1"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        assert wait_until(lambda: (tmp_path / "run" / JUDGE_CACHE).exists() and judgements_on_disk() == given)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        release.set()
    backend = ScriptedBackend(echo)
    outcome = evaluate(toy, tmp_path / "run", Recorder(), backend=backend)
    assert (outcome.tasks[0].samples_scored, outcome.tasks[0].metrics[0].value) == (24, 1.0)
    times = Counter(number_of(asked) for asked in judge.asked)
    assert [times[number] for number in range(given)] == [1] * given
    assert set(times) == set(range(24))


def test_the_cache_of_judgements_ends_with_its_evaluation(
    judge: JudgeHandle, toy: EvaluationConfig, tmp_path: Path
) -> None:
    judge.answer = lambda asked: Reply("1")
    for _ in range(2):  # ``eval`` removes the folder of a run that is done, and may run the same again
        evaluate(toy, tmp_path / "run", Recorder(), backend=ScriptedBackend(echo))
        with sqlite3.connect(tmp_path / "run" / JUDGE_CACHE) as connection:
            assert connection.execute("SELECT count(*) FROM entries").fetchone() == (24,)
        connection.close()
        assert current_cache() is None
        opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
        assert not [path for path in opened if path.startswith(str(tmp_path))]
        shutil.rmtree(tmp_path / "run")
    assert len(judge.asked) == 48


def test_a_scorer_that_ends_the_process_is_heard_of(judge: JudgeHandle, toy: EvaluationConfig, tmp_path: Path) -> None:
    judge.answer = lambda asked: Reply("0 leave" if number_of(asked) == 5 else "1")
    with pytest.raises(SystemExit, match="enough"):
        evaluate(toy, tmp_path / "run", Recorder(), backend=ScriptedBackend(echo))


def test_scorers_that_ask_nobody_stay_on_the_callers_thread(tmp_path: Path) -> None:
    utils = """
    import threading

    def process(doc, results):
        return {"right": float(threading.current_thread() is threading.main_thread())}
    """
    write_task(tmp_path, KEYS, utils=utils)
    with ScoringPool(load(tmp_path)) as pool:
        for doc_id in range(6):
            pool.submit(doc_id, ["a"])
        scores = [outcome[0].scores["right"] for _, outcome in pool.finished() if isinstance(outcome, tuple)]
    assert scores == [1.0] * 6

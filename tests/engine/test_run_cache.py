"""The response cache: what a model was asked before is not asked again, whoever asks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationOutcome
from lmms_eval_grpc.engine.models.protocol import Answer, GenerationRequest, GenerationResponse
from lmms_eval_grpc.engine.run.cached_backend import CachedBackend
from lmms_eval_grpc.engine.run.evaluate import SAMPLES, evaluate, load_backend
from lmms_eval_grpc.engine.run.log import read_sound_lines
from lmms_eval_grpc.engine.run.response_cache import FILE, ResponseCache
from tests.support import scripted_run
from tests.support.backends import LikelihoodBackend, ScriptedBackend
from tests.support.reporters import Recorder
from tests.support.scripted_run import config_for, echo
from tests.support.task_files import datasets_cache, write_task

__all__ = ["datasets_cache"]

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [{"question": f"q{number}", "answer": f"Q{number}"} for number in range(10)]


def evaluated(
    config: EvaluationConfig, run_dir: Path, backend: Any, reporter: Recorder | None = None
) -> EvaluationOutcome:
    return evaluate(config, run_dir, reporter or Recorder(), backend=backend)


def responses_in(run_dir: Path) -> list[tuple[int, list[str], int, int]]:
    lines = read_sound_lines(run_dir / SAMPLES)[1]
    return sorted((line["doc_id"], line["responses"], line["input_tokens"], line["output_tokens"]) for line in lines)


@pytest.fixture
def toy(tmp_path: Path) -> EvaluationConfig:
    """A task of ten questions, and a cache."""
    write_task(tmp_path / "tasks", documents=DOCUMENTS)
    return config_for(tmp_path / "tasks", tmp_path / "cache")


def test_the_second_job_asks_the_model_nothing_and_scores_the_same(toy: EvaluationConfig, tmp_path: Path) -> None:
    first = evaluated(toy, tmp_path / "first", ScriptedBackend(echo))
    backend, reporter = ScriptedBackend(echo), Recorder()
    second = evaluated(toy, tmp_path / "second", backend, reporter)
    assert backend.asked == []
    assert second.tasks[0].metrics == first.tasks[0].metrics
    assert responses_in(tmp_path / "second") == responses_in(tmp_path / "first")
    assert (second.input_tokens, second.output_tokens) == (first.input_tokens, first.output_tokens)
    last = reporter.reports[-1]
    assert (last.samples_done, last.samples_cached, last.output_tokens, last.batch_size) == (10, 10, 0, 0)
    assert second.samples_per_second == second.output_tokens_per_second == 0.0
    sources = second.results_document["usage"]["by_source"]
    assert set(sources["model"].values()) == {0}
    cached = sources["response_cache"]
    assert (cached["input_tokens"], cached["output_tokens"], cached["total_tokens"]) == (20, 20, 40)
    assert (cached["n_responses"], cached["n_api_calls"]) == (10, 0)
    assert second.manifest["response_cache"]["samples"] == 10
    assert first.manifest["response_cache"]["samples"] == 0
    assert (
        "response_cache" not in evaluated(replace(toy, use_cache=None), tmp_path / "n", ScriptedBackend(echo)).manifest
    )


def test_hits_are_in_the_run_log_so_that_an_attempt_can_be_taken_up(toy: EvaluationConfig, tmp_path: Path) -> None:
    evaluated(replace(toy, limit=6), tmp_path / "first", ScriptedBackend(echo))
    with pytest.raises(EvaluationCancelled):
        evaluated(toy, tmp_path / "second", ScriptedBackend(echo), Recorder(cancel_at=8))
    backend, reporter = ScriptedBackend(echo), Recorder()
    outcome = evaluated(replace(toy, use_cache=None), tmp_path / "second", backend, reporter)
    assert backend.asked == ["q8", "q9"]
    last = reporter.reports[-1]
    assert (last.samples_resumed, last.samples_cached) == (8, 6)
    assert outcome.tasks[0].metrics[0].value == 1.0


@pytest.mark.parametrize(
    "changed",
    [{"gen_kwargs": {"max_new_tokens": 5}}, {"system_instruction": "Be brief."}, {"device": "meta"}],
    ids=["arguments", "system text", "device"],
)
def test_another_question_is_asked_anew(toy: EvaluationConfig, tmp_path: Path, changed: Mapping[str, Any]) -> None:
    evaluated(toy, tmp_path / "first", ScriptedBackend(echo))
    backend = ScriptedBackend(echo)
    evaluated(replace(toy, **changed), tmp_path / "second", backend)
    assert len(backend.asked) == 10


def test_another_model_is_asked_anew(toy: EvaluationConfig, tmp_path: Path) -> None:
    evaluated(toy, tmp_path / "first", ScriptedBackend(echo))
    backend = ScriptedBackend(lambda text: "other", identity="other weights")
    assert evaluated(toy, tmp_path / "second", backend).tasks[0].metrics[0].value == 0.0
    assert len(backend.asked) == 10


def test_another_decoder_of_videos_is_asked_anew(
    toy: EvaluationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(toy, tmp_path / "run", ScriptedBackend(echo))
    monkeypatch.setenv("LMMS_VIDEO_DECODE_BACKEND", "torchcodec")
    backend = ScriptedBackend(echo)
    evaluated(toy, tmp_path / "run", backend)  # neither taken up nor from the cache
    assert len(backend.asked) == 10


class _TwiceFetching(ScriptedBackend):
    """As replicas: fetches the first request again, because its process died. Meanwhile another job asks the same."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__(echo)
        self.meanwhile = meanwhile

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        assert requests[0]
        for index in (1, 0):
            with pytest.raises(Exception) as withheld:
                requests[index]
            yield [Answer(index, GenerationResponse(error=repr(withheld.value)))]
            self.meanwhile()


def test_who_waits_for_a_request_that_is_fetched_again_is_answered(tmp_path: Path) -> None:
    request = GenerationRequest([{"role": "user", "content": [{"type": "text", "text": "q"}]}], {})
    other = CachedBackend(ScriptedBackend(echo), ResponseCache(tmp_path), {})
    backend = CachedBackend(_TwiceFetching(lambda: list(other.generate([request]))), ResponseCache(tmp_path), {})
    answers = [answer for batch in backend.generate([request, request]) for answer in batch]
    assert sorted((answer.index, answer.response.text) for answer in answers) == [(0, "Q"), (1, "Q")]
    backend.close()
    other.close()


def test_tasks_that_ask_the_same_share_the_response(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    write_task(folder, documents=DOCUMENTS)
    write_task(
        folder, "metric_list: [{metric: exact_match, ignore_case: true}]\n", name="other", documents=DOCUMENTS[4:]
    )
    config = replace(config_for(folder, tmp_path / "cache"), tasks=("toy", "other"))
    backend, reporter = ScriptedBackend(echo), Recorder()
    outcome = evaluated(config, tmp_path / "run", backend, reporter)
    assert backend.asked == [f"q{number}" for number in range(10)]
    assert reporter.reports[-1].samples_cached == 6
    assert [score.metrics[0].value for score in outcome.tasks] == [1.0, 1.0]


def test_equal_questions_of_one_task_are_asked_once(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks", documents=[DOCUMENTS[number % 3] for number in range(9)])
    backend = ScriptedBackend(echo, batch_size=4)
    config = replace(config_for(tmp_path / "tasks", tmp_path / "cache"), repeats=2)
    outcome = evaluated(config, tmp_path / "run", backend)
    assert sorted(backend.asked) == ["q0", "q1", "q2"]
    assert (outcome.tasks[0].samples_scored, outcome.tasks[0].metrics[0].value) == (9, 1.0)


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.7}, {"do_sample": True}, {"n": 2}, {"num_return_sequences": 2, "temperature": 0}]
)
def test_sampling_is_never_cached(toy: EvaluationConfig, tmp_path: Path, sampling: Mapping[str, Any]) -> None:
    config = replace(toy, gen_kwargs=sampling)
    for attempt in range(2):
        backend = ScriptedBackend(echo)
        evaluated(config, tmp_path / str(attempt), backend)
        assert len(backend.asked) == 10


def test_numbers_that_mean_the_same_are_the_same_question(toy: EvaluationConfig, tmp_path: Path) -> None:
    arguments = ({"temperature": 0.0, "until": "x"}, {"temperature": 0, "until": ["x"], "top_p": None})
    first, second = (replace(toy, gen_kwargs=given) for given in arguments)
    evaluated(first, tmp_path / "first", ScriptedBackend(echo))
    backend = ScriptedBackend(echo)
    evaluated(second, tmp_path / "second", backend)
    assert backend.asked == []


def test_an_error_is_not_kept(toy: EvaluationConfig, tmp_path: Path) -> None:
    config = replace(toy, max_error_share=0.5)
    failing = ScriptedBackend(lambda text: OSError("broken") if text == "q3" else text.upper())
    evaluated(config, tmp_path / "first", failing)
    backend = ScriptedBackend(echo)
    outcome = evaluated(config, tmp_path / "second", backend)
    assert backend.asked == ["q3"]
    assert outcome.tasks[0].samples_scored == 10


@pytest.mark.parametrize("loss", [False, True])
def test_likelihoods_are_kept_exactly(tmp_path: Path, loss: bool) -> None:
    keys = """
        output_type: multiple_choice
        doc_to_choice: ["a0", "a1", "a2"]
        metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
    """
    write_task(tmp_path / "tasks", keys, documents=[{"question": f"q{n}", "answer": f"a{n}"} for n in range(3)])
    config = config_for(tmp_path / "tasks", tmp_path / "cache")

    def backend() -> LikelihoodBackend:
        return LikelihoodBackend(lambda text, choice: -0.1 if text[1] == choice[1] else -1 / 3, loss=loss)

    first = evaluated(config, tmp_path / "first", backend())
    again = backend()
    second = evaluated(config, tmp_path / "second", again)
    assert again.asked == []
    assert second.tasks[0].metrics == first.tasks[0].metrics
    assert second.tasks[0].metrics[0].value == 1.0
    assert responses_in(tmp_path / "second") == responses_in(tmp_path / "first")


def test_each_round_of_a_conversation_is_cached(tmp_path: Path) -> None:
    utils = """
    def text(doc, lmms_eval_specific_kwargs=None, round_idx=None, previous_output=None, previous_round_info=None):
        if round_idx is None:
            return doc["question"]
        return None, f"{doc['question']} round {round_idx}", round_idx >= 3, previous_output, None

    def process_results(doc, results):
        return {"rounds": float(results[0] == [doc["answer"]] + [f"{doc['answer']} ROUND {n}" for n in (1, 2)])}
    """
    keys = """
        output_type: generate_until_multi_round
        doc_to_text: !function utils.text
        process_results: !function utils.process_results
        metric_list: [{metric: rounds, aggregation: mean, higher_is_better: true}]
    """
    write_task(tmp_path / "tasks", keys, documents=DOCUMENTS, utils=utils)
    config = config_for(tmp_path / "tasks", tmp_path / "cache")
    evaluated(replace(config, limit=7), tmp_path / "first", ScriptedBackend(echo))
    backend, reporter = ScriptedBackend(echo), Recorder()
    outcome = evaluated(config, tmp_path / "second", backend, reporter)
    assert sorted(backend.asked) == sorted(f"q{n}{end}" for n in (7, 8, 9) for end in ("", " round 1", " round 2"))
    assert reporter.reports[-1].samples_cached == 7
    assert outcome.tasks[0].metrics[0].value == 1.0


def test_after_kill_9_another_job_reuses_what_was_recorded(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks", documents=DOCUMENTS)
    command = [sys.executable, scripted_run.__file__, tmp_path / "tasks", tmp_path / "run", "6", tmp_path / "cache"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "6"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    backend = ScriptedBackend(echo)
    outcome = evaluated(config_for(tmp_path / "tasks", tmp_path / "cache"), tmp_path / "other", backend)
    assert backend.asked == ["q6", "q7", "q8", "q9"]
    assert outcome.tasks[0].metrics[0].value == 1.0


def test_several_processes_use_one_cache_at_once(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks", documents=[{"question": f"q{n}", "answer": f"Q{n}"} for n in range(60)])
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, scripted_run.__file__, str(tmp_path / "tasks"), str(tmp_path / f"run{number}")),
                *("-1", str(tmp_path / "cache")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for number in range(3)
    ]
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert out.strip() == "1.0"
        assert "response cache" not in err, "no warning"
    backend = ScriptedBackend(echo)
    evaluated(config_for(tmp_path / "tasks", tmp_path / "cache"), tmp_path / "last", backend)
    assert backend.asked == []


def damage(file: Path) -> None:
    file.write_bytes(b"this is no database, whatever its name says" * 100)


def cut_short(file: Path) -> None:
    """A database whose pages are garbage."""
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        connection.executemany("INSERT INTO entries VALUES (?, ?)", [(f"{n}" * 50, "x" * 999) for n in range(200)])
    connection.close()
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))


def be_a_folder(file: Path) -> None:
    file.mkdir()


def hold_other_values(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE entries (something TEXT)")
    connection.close()


@pytest.mark.parametrize("spoil", [damage, cut_short, be_a_folder, hold_other_values])
def test_a_cache_that_cannot_be_used_costs_a_warning(
    toy: EvaluationConfig, tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").mkdir()
    spoil(tmp_path / "cache" / FILE)
    backend = ScriptedBackend(echo)
    outcome = evaluated(toy, tmp_path / "run", backend)
    assert (len(backend.asked), outcome.tasks[0].metrics[0].value) == (10, 1.0)
    warnings = [record.message for record in caplog.records if "response cache" in record.message]
    assert len(warnings) == 1
    assert FILE in warnings[0]


def test_a_cache_that_stays_locked_costs_a_warning(
    toy: EvaluationConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmms_eval_grpc.engine.key_value_file.BUSY_SECONDS", 0.2)
    (tmp_path / "cache").mkdir()
    holder = sqlite3.connect(tmp_path / "cache" / FILE, isolation_level=None)
    holder.execute("CREATE TABLE something (value TEXT)")
    holder.execute("BEGIN EXCLUSIVE")
    backend = ScriptedBackend(echo)
    assert evaluated(toy, tmp_path / "run", backend).tasks[0].metrics[0].value == 1.0
    holder.close()
    assert len(backend.asked) == 10
    assert sum("response cache" in record.message for record in caplog.records) == 1


def test_a_response_that_cannot_be_read_is_asked_for_again(toy: EvaluationConfig, tmp_path: Path) -> None:
    evaluated(toy, tmp_path / "first", ScriptedBackend(echo))
    with sqlite3.connect(tmp_path / "cache" / FILE) as connection:
        connection.execute("UPDATE entries SET value = '{'")
    connection.close()
    backend = ScriptedBackend(echo)
    evaluated(toy, tmp_path / "second", backend)
    assert len(backend.asked) == 10


def test_the_budget_counts_only_what_the_model_generates(toy: EvaluationConfig, tmp_path: Path) -> None:
    evaluated(replace(toy, limit=6), tmp_path / "first", ScriptedBackend(echo))
    (score,) = evaluated(replace(toy, max_tokens=8), tmp_path / "second", ScriptedBackend(echo)).tasks
    assert (score.samples_scored, score.samples_skipped) == (10, 0)


def digits(checkpoint: Path, cache: Path) -> EvaluationConfig:
    return EvaluationConfig(
        "idefics3", ("handwritten_digits",), {"pretrained": str(checkpoint)}, limit=8, batch_size=4, use_cache=cache
    )


def rows_generated(config: EvaluationConfig, run_dir: Path) -> tuple[int, dict[str, Any]]:
    """How many prompts the real model of the configuration was given, and the results."""
    backend = load_backend(config)
    rows: list[int] = []
    generate = backend.model.generate  # type: ignore[attr-defined]

    def counted(**inputs: Any) -> Any:
        rows.append(len(inputs["input_ids"]))
        return generate(**inputs)

    backend.model.generate = counted  # type: ignore[attr-defined]
    outcome = evaluate(config, run_dir, Recorder(), backend=backend)
    return sum(rows), json.loads(json.dumps(outcome.results_document["results"]))


def test_a_real_model_is_asked_anew_once_its_weights_changed_in_place(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    checkpoint = shutil.copytree(tiny("idefics3"), tmp_path / "checkpoint")
    config = digits(checkpoint, tmp_path / "cache")
    asked, first = rows_generated(config, tmp_path / "first")
    assert asked == 8
    assert rows_generated(config, tmp_path / "second") == (0, first)
    weights = checkpoint / "model.safetensors"
    tensors = {name: torch.randn_like(value) for name, value in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    assert rows_generated(config, tmp_path / "third")[0] == 8

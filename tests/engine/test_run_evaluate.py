"""The run loop around a model that answers by a script: order, errors, resuming, counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationError, EvaluationOutcome, Stage
from lmms_eval_grpc.engine.run.evaluate import RUN_LOG, SAMPLES, evaluate
from lmms_eval_grpc.engine.run.log import RunLog, read_sound_lines
from tests.support.backends import ScriptedBackend
from tests.support.reporters import Recorder

UTILS = """
def process_results(doc, results):
    if doc["answer"] == "raise":
        raise KeyError("no such field")
    return {"exact_match": float(results[0] == doc["answer"])}
"""


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., Path]:
    """``write_task("name", ["q a", …])``: a task whose documents ask ``q`` and want ``a``; returns its folder."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "utils.py").write_text(UTILS)

    def write(name: str, documents: list[str], **more: Any) -> Path:
        rows = [dict(zip(("question", "answer"), line.split(), strict=True)) for line in documents]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
            "test_split": "test",
            "doc_to_text": "{{question}}",
            "doc_to_target": "answer",
            "generation_kwargs": {"max_new_tokens": 4, "until": ["\n"]},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            **more,
        }
        text = json.dumps(task, indent=1)
        if more.get("process_results"):
            text = text.replace('"!function utils.process_results"', "!function utils.process_results")
        (folder / f"{name}.yaml").write_text(text)
        return folder

    return write


def config_for(folder: Path, *tasks: str, **changes: Any) -> EvaluationConfig:
    return replace(EvaluationConfig("idefics3", tasks, {"pretrained": "none"}, include_paths=(folder,)), **changes)


def run(
    config: EvaluationConfig, run_dir: Path, backend: ScriptedBackend, reporter: Recorder | None = None
) -> EvaluationOutcome:
    return evaluate(config, run_dir, reporter or Recorder(), backend=backend)


def echo(text: str) -> str:
    return text.upper()


def samples_in(run_dir: Path) -> list[dict[str, Any]]:
    return list(read_sound_lines(run_dir / SAMPLES)[1])


QUESTIONS = [f"q{number} Q{number}" for number in range(10)]


def test_an_unknown_task_is_reported_before_the_model_is_loaded(tmp_path: Path) -> None:
    config = EvaluationConfig("idefics3", ("no_such_task",), {"pretrained": str(tmp_path / "no checkpoint either")})
    with pytest.raises(EvaluationError, match="no_such_task"):
        evaluate(config, tmp_path / "run", Recorder())


def test_an_environment_that_means_nothing_is_an_error_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMMS_VIDEO_DECODE_BACKEND", "decord")
    monkeypatch.setenv("LMMS_VIDEO_DALI_THREADS", "many")
    config = EvaluationConfig("idefics3", ("no_such_task",), {"pretrained": str(tmp_path / "no checkpoint either")})
    with pytest.raises(EvaluationError) as raised:
        evaluate(config, tmp_path / "run", Recorder())
    assert raised.value.reason == "INVALID_ENVIRONMENT"
    backend, threads = raised.value.message.splitlines()
    assert "LMMS_VIDEO_DECODE_BACKEND must be pyav, torchcodec or dali, but is 'decord'" in backend
    assert "LMMS_VIDEO_DALI_THREADS" in threads
    assert "'many'" in threads


def test_unknown_generation_arguments_of_tasks_are_told_before_the_model_is_loaded(
    tmp_path: Path, write_task: Any
) -> None:
    write_task("first", QUESTIONS, generation_kwargs={"max_new_tokns": 4})
    folder = write_task("second", QUESTIONS, model_specific_generation_kwargs={"idefics3": {"beams": 2}})
    config = config_for(folder, "first", "second", model_args={"pretrained": str(tmp_path / "no checkpoint")})
    with pytest.raises(EvaluationError) as raised:
        evaluate(config, tmp_path / "run", Recorder())
    assert raised.value.reason == "INVALID_GENERATION_ARGS"
    first, second = raised.value.message.splitlines()
    assert first.startswith("task first: model 'idefics3' has no generation argument 'max_new_tokns'; did you")
    assert second.startswith("task second: ")
    assert "num_beams" in second


def test_two_tasks_in_one_job_keep_their_own_prompts_and_batches(tmp_path: Path, write_task: Any) -> None:
    write_task("first", [f"a{n} A{n}" for n in range(5)])
    folder = write_task("second", [f"b{n} B{n}" for n in range(3)], doc_to_text="second {{question}}")
    backend, reporter = ScriptedBackend(lambda text: text.split()[-1].upper(), batch_size=4), Recorder()
    outcome = run(config_for(folder, "first", "second"), tmp_path / "run", backend, reporter)
    assert backend.prompts == [["a0", "a1", "a2", "a3"], ["a4"], ["second b0", "second b1", "second b2"]]
    assert [score.task for score in reporter.scores] == ["first", "second"]
    assert reporter.scores == list(outcome.tasks)
    assert [score.metrics[0].value for score in outcome.tasks] == [1.0, 1.0]


def test_limit_is_a_share_of_each_task(tmp_path: Path, write_task: Any) -> None:
    write_task("small", QUESTIONS[:4])
    folder = write_task("large", QUESTIONS)
    outcome = run(config_for(folder, "small", "large", limit=0.5), tmp_path / "run", ScriptedBackend(echo))
    assert [score.samples_asked for score in outcome.tasks] == [2, 5]


def test_the_outcome_and_the_files_tell_the_same(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", [*QUESTIONS, "q10 wrong"])
    outcome = run(config_for(folder, "task"), tmp_path / "run", ScriptedBackend(echo))
    (score,) = outcome.tasks
    assert (score.samples_asked, score.samples_scored, score.samples_errored) == (11, 11, 0)
    assert score.metrics[0].value == pytest.approx(10 / 11)
    assert outcome.results_document["results"]["task"]["exact_match,none"] == pytest.approx(10 / 11)
    assert outcome.results_path is not None
    assert json.loads(outcome.results_path.read_text())["results"] == outcome.results_document["results"]
    samples = samples_in(tmp_path / "run")
    assert [sample["scores"]["exact_match"] for sample in samples] == [1.0] * 10 + [0.0]
    assert samples[3] | {"prompt": "q3", "target": "Q3", "responses": ["Q3"], "outcome": "ok"} == samples[3]
    assert outcome.output_tokens == sum(sample["output_tokens"] for sample in samples) > 0
    assert set(outcome.stage_seconds) == {stage.value for stage in Stage} - {"merging"}
    speed = outcome.results_document["throughput"]
    assert speed["total_gen_tokens"] == outcome.output_tokens
    assert speed["avg_speed"] == pytest.approx(speed["total_gen_tokens"] / speed["total_elapsed_time"])
    assert speed["avg_latency"] == pytest.approx(speed["total_elapsed_time"] / 11)
    assert outcome.results_document["usage"]["total"]["n_api_calls"] == 11
    assert outcome.manifest["device"].keys() == {"type", "name", "processor", "threads", "count", "replicas"}
    assert (outcome.manifest["judges"], outcome.manifest["judge_parsing"]) == ({}, "strict")


def test_progress_counts_up_to_the_total(tmp_path: Path, write_task: Any) -> None:
    write_task("one", QUESTIONS)
    folder = write_task("two", QUESTIONS[:3])
    reporter = Recorder()
    run(config_for(folder, "one", "two"), tmp_path / "run", ScriptedBackend(echo), reporter)
    done = [report.samples_done for report in reporter.reports]
    assert done == sorted(done)
    assert done[-1] == 13
    assert {report.samples_total for report in reporter.reports[1:]} == {13}
    stages = [report.stage for report in reporter.reports]
    assert list(dict.fromkeys(stages)) == [stage for stage in Stage if stage is not Stage.MERGING]
    last_of_one = [report for report in reporter.reports if report.task == "one"][-1]
    assert (last_of_one.task_samples_done, last_of_one.task_samples_total) == (10, 10)
    assert all(report.samples_per_second > 0 for report in reporter.reports if report.samples_done)


def test_cancelling_keeps_what_was_answered_and_resuming_asks_only_the_rest(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS)
    config, run_dir = config_for(folder, "task"), tmp_path / "run"
    with pytest.raises(EvaluationCancelled):
        run(config, run_dir, ScriptedBackend(echo), Recorder(cancel_at=4))
    again, reporter = ScriptedBackend(echo), Recorder()
    outcome = run(config, run_dir, again, reporter)
    assert again.asked == [f"q{number}" for number in range(4, 10)]
    assert outcome.tasks[0].metrics[0].value == 1.0
    assert reporter.reports[-1].samples_resumed == 4
    assert sorted(sample["doc_id"] for sample in samples_in(run_dir)) == list(range(10))


def test_cancelling_before_the_first_batch_asks_nothing(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS)
    backend = ScriptedBackend(echo)
    with pytest.raises(EvaluationCancelled):
        run(config_for(folder, "task"), tmp_path / "run", backend, Recorder(cancel_at=0))
    assert backend.prompts == []


def test_samples_are_written_once_when_their_file_is_behind_the_log(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS)
    config, run_dir = config_for(folder, "task"), tmp_path / "run"
    run(config, run_dir, ScriptedBackend(echo))
    path = run_dir / SAMPLES
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = ScriptedBackend(echo)
    run(config, run_dir, again)
    assert again.prompts == []
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_another_model_or_other_arguments_begin_anew(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS[:2])
    config, run_dir = config_for(folder, "task"), tmp_path / "run"
    run(config, run_dir, ScriptedBackend(echo))
    for number, (changed, identity) in enumerate(
        [(config, "other weights"), (replace(config, gen_kwargs={"until": ["x"]}), "other weights")], start=1
    ):
        backend = ScriptedBackend(lambda text: "different", identity=identity)
        outcome = run(changed, run_dir, backend)
        assert len(backend.asked) == 2
        assert outcome.tasks[0].metrics[0].value == 0.0
        assert [sample["responses"] for sample in samples_in(run_dir)] == [["different"]] * 2
        assert (run_dir / f"{RUN_LOG}.{number}").exists()


def test_the_batch_size_may_change_between_attempts(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS)
    config, run_dir = config_for(folder, "task", batch_size=2), tmp_path / "run"
    with pytest.raises(EvaluationCancelled):
        run(config, run_dir, ScriptedBackend(echo), Recorder(cancel_at=6))
    again = ScriptedBackend(echo)
    run(replace(config, batch_size=8), run_dir, again)
    assert len(again.asked) == 4


def fail_on(*broken: str) -> Callable[[str], str | Exception]:
    return lambda text: OSError(f"{text} is corrupt") if text in broken else text.upper()


MANY = [f"q{number} Q{number}" for number in range(40)]


def test_a_few_failures_are_counted_and_not_scored_as_wrong(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", MANY)
    outcome = run(config_for(folder, "task"), tmp_path / "run", ScriptedBackend(fail_on("q3", "q7")))
    (score,) = outcome.tasks
    assert (score.samples_asked, score.samples_scored, score.samples_errored) == (40, 38, 2)
    assert score.metrics[0].value == 1.0
    assert score.metrics[0].sample_count == 38
    failed = [sample for sample in samples_in(tmp_path / "run") if sample["outcome"] != "ok"]
    assert [(sample["doc_id"], sample["outcome"]) for sample in failed] == [(3, "model_error"), (7, "model_error")]
    assert failed[0]["error"] == "q3 is corrupt"
    assert failed[0]["scores"] == {}


def test_too_many_failures_fail_the_evaluation_and_quote_one(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", MANY)
    backend = ScriptedBackend(fail_on("q1", "q2", "q3"))
    with pytest.raises(EvaluationError, match=r"3 of 40 samples failed.*5%.*q3 is corrupt") as caught:
        run(config_for(folder, "task"), tmp_path / "run", backend)
    assert caught.value.reason == "TOO_MANY_ERRORS"
    assert len(backend.asked) == 4  # it stops at once


def test_a_scorer_that_raises_is_a_scoring_error(tmp_path: Path, write_task: Any) -> None:
    documents = [*MANY[:30], "q30 raise"]
    folder = write_task("task", documents, process_results="!function utils.process_results")
    outcome = run(config_for(folder, "task"), tmp_path / "run", ScriptedBackend(echo))
    (score,) = outcome.tasks
    assert (score.samples_scored, score.samples_errored) == (30, 1)
    (failed,) = [sample for sample in samples_in(tmp_path / "run") if sample["outcome"] != "ok"]
    assert failed["outcome"] == "scoring_error"
    assert failed["responses"] == ["Q30"]
    assert "no such field" in failed["error"]


def test_failures_are_asked_again_by_the_next_attempt(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", MANY)
    config, run_dir = config_for(folder, "task"), tmp_path / "run"
    with pytest.raises(EvaluationCancelled):
        run(config, run_dir, ScriptedBackend(fail_on("q3")), Recorder(cancel_at=10))
    again = ScriptedBackend(echo)
    outcome = run(config, run_dir, again)
    assert again.asked[0] == "q3"
    assert len(again.asked) == 31
    assert outcome.tasks[0].samples_errored == 0
    assert {sample["outcome"] for sample in samples_in(run_dir)} == {"ok"}


def test_failures_of_a_finished_task_are_final(tmp_path: Path, write_task: Any) -> None:
    write_task("first", MANY)
    folder = write_task("second", QUESTIONS)
    config, run_dir = config_for(folder, "first", "second"), tmp_path / "run"
    earlier = Recorder(cancel_at=44)
    with pytest.raises(EvaluationCancelled):
        run(config, run_dir, ScriptedBackend(fail_on("q33")), earlier)
    again = ScriptedBackend(echo)
    outcome = run(config, run_dir, again)
    assert len(again.asked) == 6
    assert outcome.tasks[0].metrics == earlier.scores[0].metrics
    assert outcome.tasks[0].samples_errored == 1
    lines = [(sample["task"], sample["doc_id"]) for sample in samples_in(run_dir)]
    assert len(lines) == len(set(lines)) == 50


def test_repeats_are_asked_and_scored_together(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS[:3])
    config, run_dir = config_for(folder, "task", repeats=3), tmp_path / "run"
    with pytest.raises(EvaluationCancelled):
        run(config, run_dir, ScriptedBackend(echo), Recorder(cancel_at=1))
    again = ScriptedBackend(echo)
    run(config, run_dir, again)
    assert len(again.asked) == 9 - 4
    assert [sample["responses"] for sample in samples_in(run_dir)] == [[f"Q{n}"] * 3 for n in range(3)]


def test_predictions_only_are_recorded_without_scores(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS)
    config = config_for(folder, "task", predict_only=True, log_samples=False)
    run(config, tmp_path / "run", ScriptedBackend(echo))
    samples = samples_in(tmp_path / "run")
    assert [sample["filtered_responses"] for sample in samples] == [[f"Q{n}"] for n in range(10)]
    assert all(sample["scores"] == {} for sample in samples)


def test_no_samples_file_when_samples_are_not_logged(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS)
    outcome = run(config_for(folder, "task", log_samples=False), tmp_path / "run", ScriptedBackend(echo))
    assert not (tmp_path / "run" / SAMPLES).exists()
    assert outcome.samples_paths == ()
    assert outcome.tasks[0].metrics[0].value == 1.0


def test_a_spent_token_budget_leaves_the_rest_unanswered_and_scores_what_was_answered(
    tmp_path: Path, write_task: Any
) -> None:
    write_task("first", QUESTIONS)
    folder = write_task("second", QUESTIONS)
    config = config_for(folder, "first", "second", max_tokens=7)
    backend, reporter = ScriptedBackend(echo), Recorder()
    outcome = run(config, tmp_path / "run", backend, reporter)
    assert len(backend.asked) == 4, "two tokens each; the batch that reaches the budget is finished"
    first, second = outcome.tasks
    counts = [
        (task.samples_asked, task.samples_scored, task.samples_errored, task.samples_skipped) for task in outcome.tasks
    ]
    assert counts == [(10, 4, 0, 6), (10, 0, 0, 10)]
    assert (first.metrics[0].value, first.metrics[0].sample_count) == (1.0, 4)
    assert second.metrics == ()
    assert reporter.reports[-1].samples_done == 4
    samples = samples_in(tmp_path / "run")
    assert [sample["outcome"] for sample in samples] == ["ok"] * 4 + ["budget_exceeded"] * 16
    assert "max_tokens=7" in samples[-1]["error"]
    assert all(sample["scores"] == {} for sample in samples[4:])
    document = outcome.results_document
    assert document["usage"]["budget_exceeded"] is True
    assert document["sample_counts"]["first"] == {"asked": 10, "scored": 4, "errored": 0, "skipped": 6}
    assert document["n-samples"]["first"] == {"original": 10, "effective": 4}

    again = ScriptedBackend(echo)
    assert run(config, tmp_path / "run", again).tasks[0].metrics == first.metrics
    assert again.asked == [], "an attempt that takes up another has no more to spend"


def test_a_budget_that_lasts_changes_nothing(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS)
    outcome = run(config_for(folder, "task", max_tokens=20), tmp_path / "run", ScriptedBackend(echo))
    assert (outcome.tasks[0].samples_scored, outcome.tasks[0].samples_skipped) == (10, 0)
    assert outcome.results_document["usage"]["budget_exceeded"] is False


def test_a_larger_budget_answers_what_was_left_out(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS)
    run(config_for(folder, "task", max_tokens=8), tmp_path / "run", ScriptedBackend(echo))
    again = ScriptedBackend(echo)
    outcome = run(config_for(folder, "task"), tmp_path / "run", again)
    assert len(again.asked) == 6
    assert outcome.tasks[0].samples_scored == 10
    (path,) = outcome.samples_paths
    assert [json.loads(line)["outcome"] for line in path.read_text().splitlines()] == ["ok"] * 10


def test_how_many_failures_are_borne_is_a_setting(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS)
    broken = fail_on("q1", "q2")
    (score,) = run(config_for(folder, "task", max_error_share=0.2), tmp_path / "some", ScriptedBackend(broken)).tasks
    assert (score.samples_scored, score.samples_errored, score.metrics[0].value) == (8, 2, 1.0)
    with pytest.raises(EvaluationError, match="2 of 10 samples failed, more than the 10%"):
        run(config_for(folder, "task", max_error_share=0.1), tmp_path / "few", ScriptedBackend(broken))
    with pytest.raises(EvaluationError, match="1 of 10 samples failed, more than the 0%"):
        run(config_for(folder, "task", max_error_share=0.0), tmp_path / "none", ScriptedBackend(broken))
    everything = ScriptedBackend(lambda text: OSError("broken"))
    (score,) = run(config_for(folder, "task", max_error_share=1.0), tmp_path / "all", everything).tasks
    assert (score.samples_errored, score.metrics) == (10, ())


def test_a_backend_that_owes_answers_is_an_error_and_no_smaller_sample(tmp_path: Path, write_task: Any) -> None:
    class Forgetful(ScriptedBackend):
        def generate(self, requests: Any) -> Any:
            yield next(iter(super().generate(requests)))

    folder = write_task("task", QUESTIONS)
    with pytest.raises(EvaluationError, match="left 8 of 10 samples unanswered") as caught:
        run(config_for(folder, "task"), tmp_path / "run", Forgetful(echo))
    assert caught.value.reason == "BACKEND_FAILED"


def test_rates_count_only_what_this_attempt_generated(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", MANY)
    config, run_dir = config_for(folder, "task"), tmp_path / "run"
    with pytest.raises(EvaluationCancelled):
        run(config, run_dir, ScriptedBackend(echo), Recorder(cancel_at=36))
    reporter = Recorder()
    outcome = run(config, run_dir, ScriptedBackend(echo), reporter)
    seconds = outcome.stage_seconds[Stage.GENERATING]
    own_tokens = sum(len(f"Q{n}") for n in range(36, 40))
    assert outcome.output_tokens_per_second == pytest.approx(own_tokens / seconds)
    assert outcome.samples_per_second == pytest.approx(4 / seconds)
    assert reporter.reports[-1].output_tokens == own_tokens
    assert outcome.output_tokens == sum(len(f"Q{n}") for n in range(40)), "the answers of all attempts"


def test_repeats_do_not_count_as_samples(tmp_path: Path, write_task: Any) -> None:
    folder = write_task("task", QUESTIONS)
    outcome = run(config_for(folder, "task", repeats=5), tmp_path / "run", ScriptedBackend(echo))
    assert outcome.samples_per_second == pytest.approx(10 / outcome.stage_seconds[Stage.GENERATING])


def test_a_kill_while_a_task_is_aggregated_leaves_no_error_that_the_next_attempt_contradicts(
    tmp_path: Path, write_task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_task("task", MANY)
    config, run_dir = config_for(folder, "task"), tmp_path / "run"

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("lmms_eval_grpc.engine.run.task_run.aggregate_task", die)
        with pytest.raises(KeyboardInterrupt):
            run(config, run_dir, ScriptedBackend(fail_on("q33")))
    outcome = run(config, run_dir, ScriptedBackend(echo))
    assert outcome.tasks[0].samples_errored == 0
    records = [(sample["doc_id"], sample["outcome"]) for sample in samples_in(run_dir)]
    assert sorted(records) == [(doc_id, "ok") for doc_id in range(40)]


def test_a_kill_before_the_errors_of_a_finished_task_are_shown_shows_them_later(
    tmp_path: Path, write_task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_task("task", MANY)
    config, run_dir = config_for(folder, "task"), tmp_path / "run"
    record_finished = RunLog.record_finished

    def record_and_die(log: RunLog, *arguments: Any) -> None:
        record_finished(log, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(RunLog, "record_finished", record_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(config, run_dir, ScriptedBackend(fail_on("q33")))
    outcome = run(config, run_dir, ScriptedBackend(echo))
    assert outcome.tasks[0].samples_errored == 1
    outcomes = {sample["doc_id"]: sample["outcome"] for sample in samples_in(run_dir)}
    assert len(samples_in(run_dir)) == 40
    assert outcomes[33] == "model_error"

"""Replicas in real processes with real checkpoints: the same scores as from one, whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from lmms_eval_grpc.engine.api import (
    EvaluationCancelled,
    EvaluationConfig,
    EvaluationError,
    EvaluationOutcome,
    ProgressReport,
    TaskScore,
)
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.protocol import Answer, GenerationRequest
from lmms_eval_grpc.engine.models.replicas.backend import USUAL_PATIENCE, ReplicatedBackend
from lmms_eval_grpc.engine.models.replicas.messages import Load
from lmms_eval_grpc.engine.models.replicas.nursery import Nursery
from lmms_eval_grpc.engine.run.evaluate import RUN_LOG, SAMPLES, evaluate, load_backend
from lmms_eval_grpc.engine.run.log import read_sound_lines
from tests.engine.conformance.test_18_rounds import BY_TEXT
from tests.engine.test_models_registry import install_plugin
from tests.support import stuck_run
from tests.support.reporters import Recorder
from tests.support.stuck_run import digits_config
from tests.support.task_files import datasets_cache, write_task
from tests.worker.test_processes import is_alive, wait_until

__all__ = ["datasets_cache"]

ROOT = Path(__file__).resolve().parents[2]
SHORT = {"gen_kwargs": {"max_new_tokens": 4}}


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """One for all tests, because it imports for many seconds; with a plug-in installed."""
    folder = tmp_path_factory.mktemp("plugin")
    install_plugin(folder, "fragile = tests.support.fragile_model:ENTRY\n")
    made = Nursery.execute([str(ROOT), str(folder), *sys.path])
    yield made
    made.close()


@dataclass
class Backends:
    """Loads replicas of a checkpoint and closes them at the test's end."""

    nursery: Nursery
    checkpoint: Path
    made: list[ReplicatedBackend] = field(default_factory=list)

    def load(
        self,
        model: str = "idefics3",
        batch_size: int | None = 4,
        replicas: int = 2,
        patience: float = USUAL_PATIENCE,
        **model_args: Any,
    ) -> ReplicatedBackend:
        order = Load(
            model, {"pretrained": str(self.checkpoint), **model_args}, "cpu", batch_size, None, False, False, 1
        )
        self.made.append(ReplicatedBackend.load(order, replicas, seed=1234, nursery=self.nursery, patience=patience))
        return self.made[-1]


@pytest.fixture
def backends(nursery: Nursery, tiny: Any) -> Iterator[Backends]:
    made = Backends(nursery, tiny("idefics3"))
    yield made
    for backend in made.made:
        backend.close()


@dataclass
class Assassin(Recorder):
    """Sends the processes ``pids`` a signal once ``at`` samples are done."""

    pids: list[int] = field(default_factory=list)
    at: int = 8
    signal: int = signal.SIGKILL

    def progress(self, report: ProgressReport) -> None:
        super().progress(report)
        if report.samples_done >= self.at:
            while self.pids:
                os.kill(self.pids.pop(), self.signal)


def pids(backend: ReplicatedBackend) -> list[int]:
    return [one.pid for one in backend.replicas if one.pid is not None]


def texts(run_dir: Path) -> dict[int, Any]:
    return {sample["doc_id"]: sample["responses"] for sample in read_sound_lines(run_dir / SAMPLES)[1]}


def metrics(outcome: EvaluationOutcome) -> list[Any]:
    return [score.metrics for score in outcome.tasks]


def asked(run_dir: Path) -> list[tuple[int, int]]:
    lines = read_sound_lines(run_dir / RUN_LOG)[1]
    return sorted((line["doc_id"], line["repeat"]) for line in lines if line["kind"] == "answer")


def requests(count: int) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            [{"role": "user", "content": [{"type": "text", "text": f"q{number} ?"}]}], {"max_new_tokens": 2}
        )
        for number in range(count)
    ]


def answers(backend: ReplicatedBackend, count: int) -> list[Answer]:
    found = sorted(
        (answer for batch in backend.generate(requests(count)) for answer in batch), key=lambda answer: answer.index
    )
    assert [answer.index for answer in found] == list(range(count))
    return found


@pytest.fixture(scope="module")
def single(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationOutcome, Path]:
    """Sixty digits by one ordinary backend."""
    folder = tmp_path_factory.mktemp("single")
    return evaluate(digits_config(tiny("idefics3"), **SHORT), folder, Recorder()), folder


def test_two_replicas_give_the_answers_scores_and_order_of_one(
    single: tuple[EvaluationOutcome, Path], backends: Backends, tmp_path: Path
) -> None:
    config = digits_config(backends.checkpoint, **SHORT, num_gpus=2)
    backend = backends.load()
    before = pids(backend)
    outcome = evaluate(config, tmp_path, Recorder(), backend=backend)
    assert metrics(outcome) == metrics(single[0])
    assert texts(tmp_path) == texts(single[1])
    assert asked(tmp_path) == [(number, 0) for number in range(60)]
    (path,) = outcome.samples_paths
    (path_of_one,) = single[0].samples_paths
    assert [json.loads(line)["doc_id"] for line in path.read_text().splitlines()] == list(range(60))
    assert [json.loads(line)["filtered_resps"] for line in path.read_text().splitlines()] == [
        json.loads(line)["filtered_resps"] for line in path_of_one.read_text().splitlines()
    ]
    assert outcome.manifest["device"]["replicas"] == 2
    assert outcome.manifest["device"]["count"] == 2
    assert single[0].manifest["device"]["replicas"] == 1
    assert pids(backend) == before


def test_a_configuration_with_two_devices_loads_replicas_that_share_the_threads_and_end_with_the_backend(
    tiny: Any, tmp_path: Path
) -> None:
    backend = load_backend(digits_config(tiny("idefics3"), num_gpus=2))
    assert isinstance(backend, ReplicatedBackend)
    processes = [psutil.Process(pid) for pid in pids(backend)]
    (nursery,) = {process.parent() for process in processes}
    assert nursery is not None
    assert nursery.ppid() == os.getpid()
    assert [os.getpgid(process.pid) for process in processes] == [os.getpgrp()] * 2
    one = registry.create("idefics3", {"pretrained": str(tiny("idefics3"))}, device="cpu", batch_size=4)
    assert dict(backend.identity) == dict(one.identity)
    assert backend.capabilities == one.capabilities
    answers(backend, 8)
    backend.close()
    assert not any(process.is_running() for process in [*processes, nursery])


def test_a_run_that_two_replicas_began_is_finished_by_one(
    single: tuple[EvaluationOutcome, Path], backends: Backends, tmp_path: Path
) -> None:
    with pytest.raises(EvaluationCancelled):
        evaluate(digits_config(backends.checkpoint, **SHORT, num_gpus=2), tmp_path, Recorder(cancel_at=12),
                 backend=backends.load())  # fmt: skip
    kept = len(asked(tmp_path))
    assert 12 <= kept < 60
    recorder = Recorder()
    outcome = evaluate(digits_config(backends.checkpoint, **SHORT), tmp_path, recorder)
    assert recorder.reports[-1].samples_resumed == kept
    assert metrics(outcome) == metrics(single[0])
    assert asked(tmp_path) == [(number, 0) for number in range(60)]


def write_choices(folder: Path) -> EvaluationConfig:
    documents = [
        {"question": f"q{number}", "answer": number % 3, "choices": ["x", "a bc", "d"]} for number in range(40)
    ]
    keys = "output_type: multiple_choice\ndoc_to_choice: choices\nmetric_list: [{metric: acc}]\n"
    write_task(folder, keys, name="choices", documents=documents)
    return EvaluationConfig("idefics3", ("choices",), include_paths=(folder,), batch_size=4)


def write_rounds(folder: Path) -> EvaluationConfig:
    documents = [{"question": f"q{number}", "answer": "a", "rounds": 1 + number % 5} for number in range(12)]
    keys = """
    output_type: generate_until_multi_round
    doc_to_text: !function utils.text
    process_results: !function utils.process_results
    generation_kwargs: {max_new_tokens: 3}
    metric_list: [{metric: rounds, aggregation: mean, higher_is_better: true}]
    """
    write_task(folder, keys, name="rounds", documents=documents, utils=BY_TEXT)
    return EvaluationConfig("idefics3", ("rounds",), include_paths=(folder,), batch_size=4)


@pytest.mark.parametrize("write", [write_choices, write_rounds])
def test_choices_and_conversations_too_are_answered_as_by_one_model(
    write: Any, backends: Backends, tmp_path: Path
) -> None:
    config = write(tmp_path)
    one = registry.create("idefics3", {"pretrained": str(backends.checkpoint)}, device="cpu", batch_size=4)
    alone = evaluate(config, tmp_path / "one", Recorder(), backend=one)
    backend = backends.load()
    before = pids(backend)
    together = evaluate(config, tmp_path / "two", Recorder(), backend=backend)
    assert alone.tasks[0].samples_scored == len(texts(tmp_path / "one"))
    assert together.tasks[0].samples_errored == 0
    assert texts(tmp_path / "two").keys() == texts(tmp_path / "one").keys()
    assert metrics(together) == metrics(alone)
    if write is write_rounds:
        assert texts(tmp_path / "two") == texts(tmp_path / "one")
    assert pids(backend) == before, "a conversation has many rounds; the replicas stay for all of them"


def test_one_replica_killed_in_the_middle_changes_nothing_but_the_time(
    single: tuple[EvaluationOutcome, Path], backends: Backends, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = backends.load()
    first = pids(backend)
    assassin = Assassin(pids=first[:1])
    outcome = evaluate(digits_config(backends.checkpoint, **SHORT), tmp_path, assassin, backend=backend)
    assert assassin.pids == []
    assert "replica 0 was killed by SIGKILL" in caplog.text
    assert metrics(outcome) == metrics(single[0])
    assert texts(tmp_path) == texts(single[1])
    assert asked(tmp_path) == [(number, 0) for number in range(60)]
    assert len(answers(backend, 10)) == 10
    assert pids(backend)[1] == first[1]


def test_a_replica_that_hangs_is_ended_while_the_other_goes_on(
    single: tuple[EvaluationOutcome, Path], backends: Backends, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = backends.load(patience=5.0)
    hung, other = pids(backend)
    assassin = Assassin(pids=[hung], signal=signal.SIGSTOP)
    outcome = evaluate(digits_config(backends.checkpoint, **SHORT), tmp_path, assassin, backend=backend)
    assert assassin.pids == []
    assert "replica 0 answered nothing for" in caplog.text
    assert not is_alive(hung)
    assert other in pids(backend)
    assert metrics(outcome) == metrics(single[0])
    assert texts(tmp_path) == texts(single[1])
    assert len(answers(backend, 10)) == 10


def test_waiting_for_the_end_of_one_replica_keeps_no_other_from_starting(backends: Backends, nursery: Nursery) -> None:
    backend = backends.load()
    stopped = pids(backend)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        ends = pool.submit(nursery.end, stopped, 3600.0)
        try:
            assert len(answers(pool.submit(backends.load).result(300), 4)) == 4
            assert not ends.done()
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGKILL)
        assert ends.result(300) == dict.fromkeys(stopped, -signal.SIGKILL)
    for replica in backend.replicas:  # their ends are known already
        replica.pid = None


def test_all_replicas_killed_at_once_are_started_again(
    single: tuple[EvaluationOutcome, Path], backends: Backends, tmp_path: Path
) -> None:
    backend = backends.load()
    outcome = evaluate(
        digits_config(backends.checkpoint, **SHORT), tmp_path, Assassin(pids=pids(backend)), backend=backend
    )
    assert metrics(outcome) == metrics(single[0])
    assert texts(tmp_path) == texts(single[1])


def test_a_replica_that_dies_while_it_is_idle_costs_nothing(backends: Backends) -> None:
    backend = backends.load()
    expected = answers(backend, 20)
    os.kill(pids(backend)[1], signal.SIGKILL)
    assert answers(backend, 20) == expected


@pytest.mark.parametrize(("number", "words"), [(9, "killed by SIGKILL"), (11, "killed by SIGSEGV"), (0, "status 70")])
def test_a_request_that_ends_every_replica_fails_alone(number: int, words: str, backends: Backends) -> None:
    found = answers(backends.load("fragile", deadly="q13", signal=number), 40)
    failed = [answer for answer in found if answer.response.error is not None]
    assert [answer.index for answer in failed] == [13]
    assert words in str(failed[0].response.error)
    assert [answer.response for answer in found if answer.index != 13] == [
        answer.response for answer in answers(backends.load(replicas=1), 40) if answer.index != 13
    ]


def test_when_no_replica_survives_the_error_says_how_they_ended_and_what_they_said_last(backends: Backends) -> None:
    backend = backends.load("fragile", deadly="?", signal=6)
    with pytest.raises(EvaluationError, match="more than I can bear") as caught:
        answers(backend, 40)
    assert caught.value.reason == "REPLICAS_DIED"
    assert "none of the model's 2 replicas is left: replica" in caught.value.message
    assert "SIGABRT" in caught.value.message
    with pytest.raises(EvaluationError, match="none of the model's replicas is left"):
        answers(backend, 1)


def test_a_checkpoint_that_no_replica_can_load_fails_as_with_one(backends: Backends) -> None:
    with pytest.raises(EvaluationError, match="no such folder") as caught:
        backends.load(pretrained="/no/such/folder")
    assert caught.value.reason == "MODEL_LOAD_FAILED"


def test_what_is_wrong_with_all_requests_ends_the_call(backends: Backends) -> None:
    class Unbuildable(list[GenerationRequest]):
        def __getitem__(self, index: Any) -> Any:
            raise EvaluationError("TASK_LOAD_FAILED", "no request can be built")

    with pytest.raises(EvaluationError, match="no request can be built"):
        list(backends.load().generate(Unbuildable(requests(20))))


def test_a_request_that_cannot_be_built_or_sent_fails_alone(backends: Backends) -> None:
    asked = requests(12)
    asked[3] = GenerationRequest([{"role": "user", "content": [{"type": "text", "text": lambda: 0}]}], {})

    class Broken(list[GenerationRequest]):
        def __getitem__(self, index: Any) -> Any:
            if index == 5:
                raise ValueError("the picture is torn")
            return super().__getitem__(index)

    found = {answer.index: answer for batch in backends.load().generate(Broken(asked)) for answer in batch}
    errors = {index: answer.response.error for index, answer in found.items() if answer.response.error is not None}
    assert errors.keys() == {3, 5}
    assert errors[5] == "ValueError: the picture is torn"
    assert "pickle" in str(errors[3])
    assert len(found) == 12


def test_cancelling_ends_the_replicas_at_once_and_the_next_call_has_new_ones(backends: Backends) -> None:
    backend = backends.load("fragile", seconds=60.0)
    before = pids(backend)
    batches = backend.generate(requests(20))
    assert next(batches) == []
    batches.close()  # type: ignore[attr-defined]
    assert not any(map(is_alive, before))
    assert pids(backend) == []
    following = backend.generate(requests(20))
    next(following)
    wait_until(lambda: len(pids(backend)) == 2)
    following.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("named", [False, True])
def test_sampled_answers_repeat_with_the_seed_and_named_ones_whatever_the_replicas(
    backends: Backends, named: bool
) -> None:
    sampling = {"max_new_tokens": 8, "do_sample": True, "temperature": 3.0}
    asked = [
        GenerationRequest(request.messages, sampling, f"question {number}" if named else "")
        for number, request in enumerate(requests(64))
    ]
    found = []
    for replicas in (2, 2, 1):
        batches = backends.load(replicas=replicas).generate(asked)
        found.append({answer.index: answer.response.text for batch in batches for answer in batch})
    assert found[0] == found[1]
    assert (found[0] == found[2]) is named
    assert len(set(found[0].values())) > 32


def test_a_killed_evaluation_leaves_no_replica_behind(tiny: Any, tmp_path: Path) -> None:
    command = [sys.executable, stuck_run.__file__, str(tiny("idefics3")), str(tmp_path), "8", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    assert int(process.stdout.readline()) >= 8
    family = psutil.Process(process.pid).children(recursive=True)
    assert sum("replica" in one.name() for one in family) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until(lambda: not any(is_alive(one.pid) for one in family))


def test_scores_of_tasks_are_told_once(backends: Backends, tmp_path: Path) -> None:
    told: list[TaskScore] = []

    class Listener(Recorder):
        def task_finished(self, score: TaskScore) -> None:
            told.append(score)

    outcome = evaluate(digits_config(backends.checkpoint, **SHORT, limit=8), tmp_path, Listener(),
                       backend=backends.load())  # fmt: skip
    assert told == list(outcome.tasks)

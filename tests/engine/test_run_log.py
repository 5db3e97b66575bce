"""The run log survives what crashes do to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.models.protocol import GenerationResponse
from lmms_eval_grpc.engine.run.log import AnswerKey, RunLog

HEADER = {"model": {"weights": "abc"}, "gen_kwargs": {"until": ["\n"]}}
YES = GenerationResponse("yes \u2028\n", 5, 2)


def key(doc_id: int, repeat: int = 0) -> AnswerKey:
    return AnswerKey("identity", doc_id, repeat)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log with answers to documents 0 and 1."""
    path = tmp_path / "run_log.jsonl"
    with RunLog(path, HEADER) as log:
        log.record_answers([(key(0), YES), (key(1), GenerationResponse(error="broken"))], "task")
    return path


def test_answers_are_there_again(path: Path) -> None:
    with RunLog(path, HEADER) as log:
        assert log.taken_up
        assert log.answers == {key(0): YES, key(1): GenerationResponse(error="broken")}


def test_answers_are_on_disk_before_recording_returns(path: Path) -> None:
    with RunLog(path, HEADER) as log:
        log.record_answers([(key(2), YES)], "task")
        assert json.loads(path.read_text().splitlines()[-1])["doc_id"] == 2


@pytest.mark.parametrize("end", [b'{"kind": "answer", "doc', b"\0" * 100 + b"\n", b"[1, 2]\n", b'{"kind": "answer"}'])
def test_a_torn_end_is_cut_off_and_writing_goes_on_after_it(path: Path, end: bytes) -> None:
    sound = path.read_bytes()
    path.write_bytes(sound + end)
    with RunLog(path, HEADER) as log:
        assert set(log.answers) == {key(0), key(1)}
        log.record_answers([(key(2), YES)], "task")
    assert path.read_bytes().startswith(sound)
    with RunLog(path, HEADER) as log:
        assert set(log.answers) == {key(0), key(1), key(2)}


def test_every_way_of_being_cut_short_can_be_taken_up(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with RunLog(path, HEADER) as log:
            log.record_answers([(key(5), YES)], "task")
        with RunLog(path, HEADER) as log:
            assert log.answers[key(5)] == YES
            assert set(log.answers) <= {key(0), key(1), key(5)}


def test_a_newer_answer_replaces_a_failure(path: Path) -> None:
    with RunLog(path, HEADER) as log:
        log.record_answers([(key(1), YES)], "task")
    with RunLog(path, HEADER) as log:
        assert log.answers[key(1)] == YES


def test_another_header_begins_anew_and_keeps_the_old_log(path: Path) -> None:
    old = path.read_bytes()
    for number in (1, 2):
        with RunLog(path, HEADER | {"model": {"weights": f"other {number}"}}) as log:
            assert not log.taken_up
            assert log.answers == {}
    assert path.with_name("run_log.jsonl.1").read_bytes() == old
    assert path.with_name("run_log.jsonl.2").exists()


def test_finished_tasks_are_remembered(path: Path) -> None:
    with RunLog(path, HEADER) as log:
        log.record_finished("identity", "task")
    with RunLog(path, HEADER) as log:
        assert log.is_finished("identity")
        assert not log.is_finished("another")


def test_the_header_is_written_without_secrets_but_tells_them_apart(tmp_path: Path) -> None:
    for number, key in enumerate(("sk-one", "sk-two", "sk-two")):
        with RunLog(tmp_path / "log.jsonl", {"model": {"extra_body": {"api_key": key}}}) as log:
            assert log.taken_up == (number == 2)
    assert all("sk-" not in path.read_text() for path in tmp_path.iterdir())

"""``samples`` and ``logs``: what a worker leaves behind, also while it is written."""

from __future__ import annotations

import json

import pytest

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.engine.record.samples import SampleRecord
from lmms_eval_grpc.jobs.events import Completed
from tests.cli.conftest import TASK, Rig, command, read_until, run_on_terminal
from tests.jobs.examples import result

RECORDS = (
    SampleRecord(TASK, 0, "none", "ok", "What digit?", "7", ("It is 7",), ("7",), {"exact_match": 1.0}, 20, 4),
    SampleRecord(TASK, 1, "", "model_error", "What digit?", "3", error="out of memory"),
    SampleRecord("other", 0, "strict", "ok", "Which word?", "cat", ("dog",), ("dog",), {"exact_match": 0.0}),
)


@pytest.fixture
def job_id(rig: Rig) -> str:
    """A running job with three samples."""
    job_id = rig.submit()
    rig.execution(job_id)
    rig.write(job_id, "samples.jsonl", "".join(f"{record.to_json()}\n" for record in RECORDS))
    rig.write(job_id, "worker.log", "loading\ngrüße\n")
    return job_id


def test_samples_are_blocks_for_people(rig: Rig, job_id: str) -> None:
    done = rig.run("samples", job_id)
    assert done.returncode == ExitCode.OK
    lines = done.stdout.splitlines()
    assert f"{TASK} #0  ok  exact_match 1" in lines
    assert "  response: It is 7" in lines
    assert "  filtered: 7" in lines
    assert f"{TASK} #1  model error" in lines
    assert "  error:    out of memory" in lines
    assert "other #0 (strict)  ok  exact_match 0" in lines


@pytest.mark.parametrize("flag", ["--json", "--jsonl"])
def test_samples_are_json_lines_for_programs(rig: Rig, job_id: str, flag: str) -> None:
    done = rig.run("samples", job_id, flag)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record["task"], record["doc_id"]) for record in records] == [(TASK, 0), (TASK, 1), ("other", 0)]
    assert records[0]["responses"] == ["It is 7"]
    assert records[0]["scores"] == {"exact_match": 1.0}


def test_samples_can_be_chosen(rig: Rig, job_id: str) -> None:
    assert [record["error"] for record in rig.records("samples", job_id, "--errors")] == ["out of memory"]
    assert [record["task"] for record in rig.records("samples", job_id, "--task", "other")] == ["other"]
    assert len(rig.records("samples", job_id, "-n", "2")) == 2


def test_a_task_that_the_job_did_not_have_is_refused(rig: Rig, job_id: str) -> None:
    assert rig.records("samples", job_id, "--task", "nope") == []
    rig.finish(job_id, Completed(result(TASK)))
    done = rig.run("samples", job_id, "--task", "nope")
    assert done.returncode == ExitCode.USAGE
    assert f"'nope' is no task of this job; its tasks are: '{TASK}', 'other'" in done.stderr.replace("\n", " ")


def test_samples_are_followed_until_the_job_ends(rig: Rig, job_id: str) -> None:
    process = rig.begin("samples", job_id, "--follow", "--json")
    read_until(process, lambda line: '"other"' in line)
    late = SampleRecord(TASK, 99, "none", "ok")
    rig.write(job_id, "samples.jsonl", f"{late.to_json()}\n")
    read_until(process, lambda line: '"doc_id": 99' in line)
    rig.finish(job_id, Completed(result(TASK)))
    assert process.wait(60) == ExitCode.OK
    process.communicate()


def test_a_job_without_samples_says_so(rig: Rig) -> None:
    done = rig.run("samples", rig.submit(log_samples=False))
    assert done.returncode == ExitCode.USAGE
    assert "log_samples" in done.stderr


def test_answers_cannot_steer_the_terminal(rig: Rig, job_id: str) -> None:
    evil = SampleRecord(TASK, 7, "none", "ok", responses=("\x1b]0;owned\x07\x1b[2J",))
    rig.write(job_id, "samples.jsonl", f"{evil.to_json()}\n")
    status, text = run_on_terminal(command("samples", job_id), rig.environment())
    assert status == ExitCode.OK
    assert "owned" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_the_log_is_printed_as_it_is(rig: Rig, job_id: str) -> None:
    done = rig.run("logs", job_id)
    assert (done.returncode, done.stdout) == (ExitCode.OK, "loading\ngrüße\n")
    assert rig.run("logs", job_id, "--tail", "4").stdout == "ße\n"
    assert "".join(record["text"] for record in rig.records("logs", job_id)) == "loading\ngrüße\n"


def test_the_log_is_followed_until_the_job_ends(rig: Rig, job_id: str) -> None:
    process = rig.begin("logs", job_id, "-f")
    read_until(process, lambda line: line == "grüße")
    rig.write(job_id, "worker.log", "one more\n")
    read_until(process, lambda line: line == "one more")
    rig.finish(job_id, Completed(result(TASK)))
    assert process.wait(60) == ExitCode.OK
    process.communicate()


def test_a_narrow_encoding_is_no_reason_to_fail(rig: Rig, job_id: str) -> None:
    done = rig.run("logs", job_id, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stdout) == (ExitCode.OK, "loading\ngr??e\n")

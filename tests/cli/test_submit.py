"""``submit``: what reaches the server, and what a script gets back."""

from __future__ import annotations

import inspect
import json
import uuid

import pytest
from google.protobuf.json_format import MessageToDict

from lmms_eval_grpc.cli.commands.submit import PLAIN_FLAGS
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.parser import build_parser
from lmms_eval_grpc.client import EvalClient, EvaluationOptions
from lmms_eval_grpc.jobs.events import Completed
from lmms_eval_grpc.v1 import job_pb2
from tests.cli.conftest import TASK, Rig, command, run_on_terminal
from tests.jobs.examples import result, task_result


def stored(rig: Rig, *flags: str) -> job_pb2.Job:
    """The job that the server keeps after a submission with these flags."""
    done = rig.run(*rig.submit_words(*flags))
    assert done.returncode == 0, done.stderr
    with rig.client() as client:
        return client.get(done.stdout.strip())


def test_in_a_pipe_the_id_stands_alone(rig: Rig) -> None:
    done = rig.run(*rig.submit_words())
    assert done.returncode == 0
    assert done.stderr == ""
    job_id = done.stdout.removesuffix("\n")
    assert job_id == job_id.strip()
    with rig.client() as client:
        assert client.get(job_id).evaluation.model == "idefics3"


def test_every_flag_reaches_the_server(rig: Rig) -> None:
    job = stored(
        rig,
        *("--num_fewshot", "0", "--batch_size", "4", "--max_batch_size", "16", "--limit", "12", "--offset", "3"),
        *("--gen_kwargs", 'max_new_tokens=64,temperature=0.5,do_sample=false,until=["a,b"]', "--no-log_samples"),
        *("--predict_only", "--num_gpus", "1", "--device", "cpu", "--output_path", str(rig.folder / "out")),
        *("--seed", "1,2,3,4", "--repeats", "2", "--system_instruction", "be brief, please"),
        *("--apply_chat_template", "--reasoning_tags", "none", "--run_timeout", "2m"),
        *("--stall_timeout", "90", "--max_attempts", "4", "--retry_on", "stalled", "--retry-on", "timeout"),
        *("--agentic_trace_mode", "full", "--max_tokens", "1000", "--max_error_share", "0.25"),
        *("--process_with_media", "--bootstrap_iters", "0", "--override_tasks", "--timezone", "Asia/Singapore"),
        *("--compat", "fewshot_stream"),
        *("--include_path", str(rig.folder), "--label", "run=sft-7", "--label", "note=a=b", "--priority", "5"),
    )
    spec = job.evaluation
    assert spec.num_fewshot == 0
    assert spec.batch_size.fixed == 4
    assert spec.max_batch_size == 16
    assert spec.limit.count == 12
    assert spec.offset == 3
    assert spec.gen_kwargs["max_new_tokens"] == 64
    assert spec.gen_kwargs["temperature"] == 0.5
    assert spec.gen_kwargs["do_sample"] is False
    assert spec.gen_kwargs["until"] == '["a,b"]'
    assert spec.log_samples is False
    assert spec.predict_only
    assert spec.device == "cpu"
    assert spec.output_dir == str(rig.folder / "out")
    assert spec.seeds == job_pb2.Seeds(python=1, numpy=2, torch=3, fewshot=4)
    assert spec.repeats == 2
    assert spec.system_instruction == "be brief, please"
    assert spec.apply_chat_template
    assert spec.reasoning_tags == "none"
    assert spec.agentic_trace_mode == "full"
    assert spec.max_tokens == 1000
    assert spec.max_error_share == 0.25
    assert spec.run_timeout.seconds == 120
    assert spec.process_with_media
    assert spec.HasField("bootstrap_iters")
    assert spec.bootstrap_iters == 0
    assert spec.override_tasks
    assert spec.timezone == "Asia/Singapore"
    assert list(spec.compat) == ["fewshot_stream"]
    assert spec.stall_timeout.seconds == 90
    assert spec.retry_policy.max_attempts == 4
    assert list(spec.retry_policy.retry_on) == [job_pb2.JOB_ERROR_CODE_STALLED, job_pb2.JOB_ERROR_CODE_TIMEOUT]
    assert list(spec.include_path) == [str(rig.folder)]
    assert dict(job.labels) == {"run": "sft-7", "note": "a=b"}
    assert job.priority == 5


def test_the_client_takes_no_argument_that_has_no_flag() -> None:
    arguments = {name for name in inspect.signature(EvalClient.evaluate).parameters if name not in ("self", "options")}
    assert arguments | set(EvaluationOptions.__annotations__) == {*PLAIN_FLAGS, "labels", "retry_policy"}


@pytest.mark.parametrize("name", PLAIN_FLAGS)
def test_each_flag_can_be_spelled_with_dashes(name: str) -> None:
    parser = build_parser(["submit"])
    required = ["submit", "--model", "m", "--tasks", "t"]
    values = {"log_samples": [], "agentic_trace_mode": ["full"], "merge": ["auto"]}
    switches = {"predict_only", "apply_chat_template", "fewshot_as_multiturn", "force_simple", "trust_remote_code"}
    switches |= {"process_with_media", "override_tasks"}
    value = [] if name in switches | {"validate_only"} else values.get(name, ["1"])
    for spelling in {f"--{name}", f"--{name.replace('_', '-')}"}:
        given = parser.parse_args([*required, spelling, *value])
        assert getattr(given, name) not in (None, False), spelling


def test_dashes_serve_as_well_as_underscores(rig: Rig) -> None:
    spec = stored(
        rig,
        *("--num-fewshot", "0", "--batch-size", "auto", "--limit", "0.5", "--no-log-samples"),
        *("--output-dir", str(rig.folder / "out"), "--gen-kwargs", '{"max_new_tokens": 4, "until": ["\\n"]}'),
    ).evaluation
    assert spec.HasField("num_fewshot")
    assert spec.batch_size.fixed == 0
    assert spec.limit.fraction == 0.5
    assert not spec.log_samples
    assert spec.output_dir == str(rig.folder / "out")
    assert MessageToDict(spec.gen_kwargs) == {"max_new_tokens": 4, "until": ["\n"]}


def test_what_is_not_given_is_left_to_the_server(rig: Rig) -> None:
    spec = stored(rig, "--limit", "-1").evaluation
    for name in ("num_fewshot", "batch_size", "limit", "run_timeout", "stall_timeout", "retry_policy"):
        assert not spec.HasField(name), name
    assert spec.log_samples


def test_as_json_the_whole_job_is_printed(rig: Rig) -> None:
    job = rig.document(*rig.submit_words("--label", "step=100"))
    assert job["evaluation"]["tasks"] == [TASK]
    assert job["labels"] == {"step": "100"}
    assert job["state"] in ("JOB_STATE_QUEUED", "JOB_STATE_RUNNING")


def test_on_a_terminal_people_are_told_how_to_go_on(rig: Rig) -> None:
    status, text = run_on_terminal(command(*rig.submit_words()), rig.environment())
    assert status == 0
    with rig.client() as client:
        (job,) = client.list_jobs()
    assert f"lmms-eval-grpc watch {job.job_id}" in text


def test_a_check_queues_nothing(rig: Rig) -> None:
    done = rig.run(*rig.submit_words("--validate-only"))
    assert done.returncode == 0
    assert "valid" in done.stdout
    assert rig.document(*rig.submit_words("--validate_only"))["status"] == "valid"
    assert rig.document("jobs") == {"jobs": []}


def test_the_same_request_id_makes_one_job(rig: Rig) -> None:
    request_id = str(uuid.uuid4())
    first = rig.run(*rig.submit_words("--request_id", request_id)).stdout
    assert first
    assert rig.run(*rig.submit_words("--request-id", request_id)).stdout == first
    other = rig.run(*rig.submit_words("--request-id", request_id, "--limit", "3"))
    assert other.returncode == ExitCode.USAGE
    assert request_id in other.stderr


def test_every_wrong_field_has_a_line_of_its_own(rig: Rig) -> None:
    done = rig.run("submit", "--model", "idefiks3", "--tasks", f"{TASK},no_such_task", "--offset", "-2")
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    for field in ("spec.model", "spec.tasks[1]", "spec.offset"):
        assert len([line for line in lines if line.startswith(f"  {field}: ")]) == 1, done.stderr


def test_what_the_client_finds_wrong_looks_the_same(rig: Rig) -> None:
    done = rig.run(*rig.submit_words("--batch_size", "big", "--limit", "nan", "--gen_kwargs", "temperature"))
    assert done.returncode == ExitCode.USAGE
    for field in ("spec.batch_size", "spec.limit", "spec.gen_kwargs"):
        assert f"\n  {field}: " in done.stderr


def test_as_json_the_violations_are_a_list_on_stderr(rig: Rig) -> None:
    done = rig.run("submit", "--model", "idefiks3", "--tasks", "no_such_task", "--json")
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert {violation["field"] for violation in error["violations"]} == {"spec.model", "spec.tasks[0]"}


@pytest.mark.parametrize("as_json", [False, True])
def test_watching_goes_on_where_submitting_ends(rig: Rig, as_json: bool) -> None:
    process = rig.begin(*rig.submit_words("--watch", *(["--json"] if as_json else [])))
    assert process.stdout is not None
    first = process.stdout.readline()
    job_id = json.loads(first)["snapshot"]["job_id"] if as_json else first.strip()
    rig.finish(job_id, task_result(TASK, 0.75), Completed(result(TASK)))
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.OK, errors
    if as_json:
        last = json.loads(rest.splitlines()[-1])["snapshot"]
        assert last["state"] == "JOB_STATE_COMPLETED"
        assert last["evaluation_result"]["task_results"][0]["task"] == TASK
    else:
        assert "exact_match 0.75" in rest

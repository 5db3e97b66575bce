"""Jobs, the queue, and what the server has: as tables for people, as documents for programs."""

from __future__ import annotations

import json

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.jobs.events import Completed, Failed
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from tests.cli.conftest import TASK, Rig, command, interrupt, read_until, run_on_terminal
from tests.jobs.examples import progress, result, task_result

ERROR = JobError(JobErrorCode.INVALID, "MODEL_LOAD_FAILED", "that is no checkpoint", log_tail="line 1\nline 2\n")


def rows(text: str) -> dict[str, str]:
    """Lines of a plain table after its headings, by their first cell."""
    return {line.split()[0]: line for line in text.splitlines()[1:]}


def test_jobs_are_listed_newest_first_with_state_and_score(rig: Rig) -> None:
    first = rig.submit(labels={"run": "a", "step": "100"})
    rig.finish(first, task_result(TASK, 0.625), Completed(result(TASK)))
    second = rig.submit()
    rig.finish(second, Failed(ERROR))
    third = rig.submit()
    rig.execution(third)
    done = rig.run("jobs")
    assert done.returncode == ExitCode.OK
    listed = rows(done.stdout)
    assert list(listed) == [third, second, first]
    assert "completed" in listed[first]
    assert "run=a step=100" in listed[first]
    assert "exact_match" in listed[first]
    assert "failed" in listed[second]
    assert "MODEL_LOAD_FAILED" in listed[second]
    assert "running" in listed[third]


def test_jobs_can_be_chosen_by_state_and_label_and_number(rig: Rig) -> None:
    first = rig.submit(labels={"run": "a"})
    second = rig.submit(labels={"run": "a", "step": "2"})
    third = rig.submit(labels={"run": "b"})
    rig.execution(first)

    def ids(*words: str) -> list[str]:
        return [job["job_id"] for job in rig.document("jobs", *words)["jobs"]]

    assert ids("--label", "run=a") == [second, first]
    assert ids("--label", "run=a", "--label", "step=2") == [second]
    assert ids("--state", "running") == [first]
    assert ids("--state", "running,queued", "--state", "failed") == [third, second, first]
    assert ids("-n", "1") == [third]
    assert ids("--limit-count", "2") == [third, second]


def test_listed_jobs_carry_results_only_on_request(rig: Rig) -> None:
    job_id = rig.submit()
    rig.finish(job_id, Completed(result(TASK)))
    (brief,) = rig.document("jobs")["jobs"]
    assert "evaluation_result" not in brief
    (whole,) = rig.document("jobs", "--full")["jobs"]
    assert whole["evaluation_result"]["task_results"][0]["task"] == TASK


def test_no_jobs_are_no_error(rig: Rig) -> None:
    done = rig.run("jobs")
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.OK, "", "no jobs\n")


def test_a_narrow_terminal_still_shows_whole_ids(rig: Rig) -> None:
    job_id = rig.submit(labels={"a-long-label": "with a long value " * 10})
    status, text = run_on_terminal(command("jobs"), rig.environment(COLUMNS="60"))
    assert status == ExitCode.OK
    assert job_id in text


def test_a_running_job_is_described(rig: Rig) -> None:
    job_id = rig.submit(gen_kwargs={"max_new_tokens": 16}, labels={"step": "7"}, priority=3)
    rig.tell(job_id, progress(40, task=TASK, task_samples_done=40, task_samples_total=100))
    process = rig.begin("watch", job_id)
    read_until(process, lambda line: "40/100" in line or "generating" in line)
    done = rig.run("job", job_id)
    process.kill()
    process.communicate()
    assert done.returncode == ExitCode.OK
    facts = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert facts["job"].strip() == job_id
    assert facts["state"].strip() == "running: generating"
    assert "40/100 (40%)" in facts["progress"]
    assert json.loads(facts["gen_kwargs"]) == {"max_new_tokens": 16}
    assert '"max_new_tokens": 16}' in facts["gen_kwargs"], "a whole number became a fraction"
    assert facts["labels"].strip() == "step=7"
    assert facts["priority"].strip() == "3"


def test_a_failed_job_is_described_without_being_a_failure(rig: Rig) -> None:
    job_id = rig.submit()
    rig.finish(job_id, Failed(ERROR))
    done = rig.run("job", job_id)
    assert done.returncode == ExitCode.OK
    assert "that is no checkpoint" in done.stdout
    assert "  line 2" in done.stdout.splitlines()
    document = rig.document("job", job_id)
    assert document["error"]["reason"] == "MODEL_LOAD_FAILED"
    assert document["error"]["log_tail"] == "line 1\nline 2\n"


def test_a_queued_job_tells_its_place(rig: Rig) -> None:
    rig.execution(rig.submit())
    rig.submit()
    waiting = rig.submit()
    assert "queued, 1 before it" in rig.run("job", waiting).stdout


def test_cancelling_twice_is_no_error(rig: Rig) -> None:
    rig.execution(rig.submit())
    waiting = rig.submit()
    first = rig.run("cancel", waiting)
    assert (first.returncode, first.stderr) == (ExitCode.OK, "")
    assert "is cancelled" in first.stdout
    assert rig.run("cancel", waiting).returncode == ExitCode.OK
    assert rig.document("cancel", waiting)["state"] == "JOB_STATE_CANCELLED"


def test_the_queue_shows_what_runs_and_what_waits(rig: Rig) -> None:
    running, waiting = rig.submit(), rig.submit()
    rig.execution(running)
    done = rig.run("queue")
    assert done.returncode == ExitCode.OK
    assert "accepting jobs; 1 running, 1 of 1000 waiting" in done.stdout
    slot = next(line for line in done.stdout.splitlines() if line.endswith(running))
    assert "cpu" in slot
    assert f"waiting 0: {waiting}" in done.stdout
    document = rig.document("queue")
    assert document["running_job_ids"] == [running]
    assert document["queued_job_ids"] == [waiting]
    assert document["slots"][0]["job_id"] == running


def test_the_queue_can_be_followed_until_interrupted(rig: Rig) -> None:
    process = rig.begin("queue", "--follow")
    read_until(process, lambda line: "cpu" in line)
    job_id = rig.submit()
    rig.finish(job_id, Completed(result(TASK)))
    lines = read_until(process, lambda line: "completed" in line)
    assert any(f"{job_id}  queued → running" in line for line in lines)
    _, errors = interrupt(process)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in errors


def test_the_followed_queue_is_json_line_by_line(rig: Rig) -> None:
    process = rig.begin("queue", "-f", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["snapshot"]["accepting"] is True
    job_id = rig.submit()
    change = json.loads(process.stdout.readline())["change"]
    assert (change["job_id"], change["state"]) == (job_id, "JOB_STATE_QUEUED")
    interrupt(process)


def test_tasks_are_listed_and_filtered(rig: Rig) -> None:
    assert TASK in rows(rig.run("tasks").stdout)
    assert set(rows(rig.run("tasks", "hand*").stdout)) == {TASK}
    kinds = {task["kind"] for task in rig.document("tasks", "--kind", "tag")["tasks"]}
    assert kinds == {"TASK_KIND_TAG"}
    nothing = rig.run("tasks", "zzz")
    assert (nothing.returncode, nothing.stdout) == (ExitCode.OK, "")
    assert "'zzz'" in nothing.stderr


def test_models_say_what_to_install(rig: Rig) -> None:
    models = {model["name"]: model for model in rig.document("models")["models"]}
    listed = rows(rig.run("models").stdout)
    assert set(listed) == set(models)
    for name, model in models.items():
        if model["available"]:
            assert listed[name].endswith("yes")
        else:
            assert f"pip install {' '.join(model['missing_packages'])}" in listed[name]
    assert any(model["available"] for model in models.values())


def test_the_server_describes_itself(rig: Rig) -> None:
    done = rig.run("info")
    assert done.returncode == ExitCode.OK
    assert rig.address in done.stdout
    document = rig.document("info")
    assert document["instance_id"] in done.stdout
    assert document["slots"][0]["device"] == "cpu"

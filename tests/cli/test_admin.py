"""The administrator's commands."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.jobs.events import Completed
from tests.cli.conftest import PATIENCE, TASK, Rig, command, environment, run_command
from tests.jobs.examples import result


def ended(rig: Rig, count: int = 1) -> list[str]:
    """Jobs that have ended, oldest first, with something in their folders."""
    jobs = []
    for _ in range(count):
        job_id = rig.submit()
        (rig.execution(job_id).job_dir / "samples.jsonl").write_text("x" * 100)
        rig.finish(job_id, Completed(result(TASK)))
        jobs.append(job_id)
    return jobs


def test_the_queue_is_paused_with_a_reason_and_resumed(rig: Rig) -> None:
    paused = rig.run("pause", "--reason", "the GPUs are wanted")
    assert paused.returncode == ExitCode.OK
    assert paused.stdout.splitlines()[0] == "paused: the GPUs are wanted"
    job_id = rig.submit()
    shown = rig.document("queue")
    assert (shown["paused"], shown["pause_reason"], shown["queued_job_ids"]) == (True, "the GPUs are wanted", [job_id])
    resumed = rig.run("resume")
    assert resumed.returncode == ExitCode.OK
    assert "paused" not in resumed.stdout
    rig.execution(job_id)
    assert rig.document("resume")["paused"] is False


def test_a_follower_of_the_queue_sees_the_pause(rig: Rig) -> None:
    following = rig.begin("queue", "--follow", "--json")
    try:
        assert following.stdout is not None
        assert not json.loads(following.stdout.readline())["snapshot"]["paused"]
        assert rig.run("pause").returncode == ExitCode.OK
        assert json.loads(following.stdout.readline())["snapshot"]["paused"]
    finally:
        following.kill()
        following.communicate()


def test_a_waiting_job_is_moved_and_a_running_one_is_not(rig: Rig) -> None:
    running = rig.submit()
    rig.execution(running)
    first, second = rig.submit(), rig.submit()
    moved = rig.run("priority", second, "5")
    assert moved.stdout == f"Job {second} has priority 5 and position 0.\n"
    assert rig.document("queue")["queued_job_ids"] == [second, first]
    assert rig.document("priority", second, "-5")["priority"] == -5
    refused = rig.run("priority", running, "5")
    assert refused.returncode == ExitCode.USAGE
    assert "it is running" in refused.stderr
    assert rig.run("priority", "nothing", "5").returncode == ExitCode.NOT_FOUND


def test_a_drained_server_refuses_jobs_and_stops_after_the_last(rig: Rig) -> None:
    job_id = rig.submit()
    rig.execution(job_id)
    drained = rig.run("drain")
    assert drained.returncode == ExitCode.OK
    assert drained.stdout.startswith("draining, so not accepting jobs; 1 running")
    assert rig.run(*rig.submit_words()).returncode == ExitCode.REFUSED
    rig.tell(job_id, Completed(result(TASK)))  # and nobody asks for it: the server may be gone by then
    rig.wait_for(rig.server.wait_closed())


def test_a_server_process_ends_by_itself_when_it_is_drained(tmp_path: Path) -> None:
    address_file = tmp_path / "address"
    flags = ("--port", "0", "--state-dir", str(tmp_path / "state"), "--address-file", str(address_file))
    server = subprocess.Popen(
        command("serve", *flags), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not address_file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        done = run_command("drain", "--address", address_file.read_text().strip())
        assert done.returncode == ExitCode.OK, done.stderr
        _, log = server.communicate(timeout=PATIENCE)
        assert server.returncode == 0, log
    finally:
        server.kill()
        server.wait()


def test_garbage_is_collected_through_the_server(rig: Rig) -> None:
    first, second = ended(rig, 2)
    tried = rig.run("gc", "--keep", "1", "--dry-run")
    assert tried.stdout == f"job {first}\n1 jobs and 0 leftovers would be removed, 100 B\n"
    assert rig.document("gc", "--older-than", "7d") == {"job_ids": [], "leftovers": [], "freed_bytes": "0"}
    assert rig.document("gc", "--keep", "1")["job_ids"] == [first]
    assert rig.document("gc", "--keep", "0")["job_ids"] == [second]
    assert rig.run("job", second).returncode == ExitCode.NOT_FOUND
    assert rig.run("gc", "--keep", "-1").returncode == ExitCode.USAGE
    assert rig.run("gc", "--older-than", "soon").returncode == ExitCode.USAGE


def test_garbage_is_collected_without_a_server_but_not_behind_its_back(rig: Rig, tmp_path: Path) -> None:
    first, second = ended(rig, 2)
    state = rig.server.state_dir
    refused = run_command("gc", "--state-dir", str(state), "--keep", "0")
    assert refused.returncode == ExitCode.USAGE
    assert "in use by another server" in refused.stderr
    rig.wait_for(rig.server.stop(0))
    (state / "jobs" / first / "worker.tmp").write_text("x" * 50)
    tried = run_command("gc", "--state-dir", str(state), "--dry-run")
    assert tried.stdout.splitlines() == [
        f"left over: jobs/{first}/worker.tmp",
        "0 jobs and 1 leftovers would be removed, 50 B",
    ]
    done = run_command("gc", "--state-dir", str(state), "--keep", "1", "--json")
    assert json.loads(done.stdout) == {"job_ids": [first], "leftovers": [], "freed_bytes": "150"}
    assert [folder.name for folder in (state / "jobs").iterdir()] == [second]
    elsewhere = run_command("gc", "--state-dir", str(tmp_path))
    assert elsewhere.returncode == ExitCode.USAGE
    assert "holds no jobs.sqlite3" in elsewhere.stderr

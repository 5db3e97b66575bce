"""``kill -9`` of the server in the middle of a job: nothing acknowledged is lost and nothing is left running."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from tests.end_to_end.conftest import ServerProcess, wait_until


def answered(server: ServerProcess, job_id: str) -> int:
    """Samples in the job's run log."""
    log = server.state_dir / "jobs" / job_id / "run_log.jsonl"
    if not log.exists():
        return 0
    records = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return sum("doc_id" in record for record in records)


def test_jobs_survive_a_killed_server(tmp_path: Path, slow_task: Path, tiny_checkpoint: Path) -> None:
    server = ServerProcess(tmp_path, "--include-path", str(slow_task)).start()
    try:
        with server.client() as client:
            arguments = {"model": "idefics3", "model_args": {"pretrained": str(tiny_checkpoint)}}
            running = client.evaluate(tasks=["slow_digits"], limit=60, batch_size=4, **arguments)["job_id"]
            waiting = [
                client.evaluate(tasks=["handwritten_digits"], limit=2, priority=priority, **arguments)["job_id"]
                for priority in (0, 5, 0)
            ]
            wait_until(lambda: answered(server, running) >= 8, 120, lambda: f"no answers: {server.log()}")
            family = server.descendants()
            assert len(family) >= 2, "the template and a worker"

        server.kill()
        wait_until(
            lambda: not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family),
            10,
            lambda: f"orphans: {[process for process in family if process.is_running()]}",
        )
        answered_before = answered(server, running)
        assert 8 <= answered_before < 60

        server.start()
        with server.client() as client:
            queue = client.get_queue_status()
            first, second, third = waiting
            order = [job for job in [*queue["running_jobs"], *queue["queued_jobs"]] if job != running]
            assert order == [second, first, third]

            finished = client.wait_for_job(running, verbose=False, timeout=240)
            assert finished["status"] == "completed"
            job = client.get(running)
            assert job.attempt == 2
            assert job.progress.samples_resumed == answered_before
            assert job.evaluation_result.task_results[0].samples.scored == 60
            assert answered(server, running) == 60, "every sample was answered once"
            events = [event for event in client.watch_job(running) if event.HasField("state_change")]
            assert [event.state_change.attempt for event in events] == [0, 1, 1, 2, 2]

            for job_id in waiting:
                assert client.wait_for_job(job_id, verbose=False, timeout=240)["status"] == "completed"
            ends = [client.get(job_id).start_time.ToNanoseconds() for job_id in (second, first, third)]
            assert ends == sorted(ends)
    finally:
        server.stop()

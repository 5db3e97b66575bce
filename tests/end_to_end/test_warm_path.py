"""The next job's worker, seen from outside a real server: there early, and gone whenever it should be."""

from __future__ import annotations

from pathlib import Path

from lmms_eval_grpc.worker import processes
from tests.end_to_end.conftest import ServerProcess, wait_until
from tests.executors.conftest import is_alive
from tests.support.checkpoints import build_checkpoint


def prepared(server: ServerProcess, job_id: str) -> int:
    """The worker that has prepared a job, once it has."""
    folder = server.state_dir / "jobs" / job_id

    def ready() -> bool:
        log = folder / "worker.log"
        return log.exists() and "waiting for a device" in log.read_text()

    wait_until(ready, 180, lambda: f"job {job_id} is not prepared: {server.log()}")
    identity = processes.read_identity(folder)
    assert identity is not None
    return identity.pid


def test_the_next_jobs_worker_is_there_early_and_gone_when_it_should_be(
    tmp_path: Path, slow_task: Path, tiny_checkpoint: Path
) -> None:
    server = ServerProcess(tmp_path, "--include-path", str(slow_task), "--devices", "cpu").start()
    arguments = {"model": "idefics3", "model_args": {"pretrained": str(tiny_checkpoint)}}
    try:
        with server.client() as client:
            running = client.evaluate(tasks=["slow_digits"], limit=1000, batch_size=4, **arguments)["job_id"]
            first, second = (
                client.evaluate(tasks=["handwritten_digits"], limit=2, **arguments)["job_id"] for _ in range(2)
            )
            worker = prepared(server, first)
            assert client.get_job(first)["status"] == "queued"
            assert client.get_job(first).get("attempt", 0) == 0
            assert not (server.state_dir / "jobs" / second / "worker.log").exists()

            client.cancel_job(first)
            wait_until(lambda: not is_alive(worker), 60, lambda: f"it is there still: {server.log()}")
            displaced = prepared(server, second)
            urgent = client.evaluate(tasks=["handwritten_digits"], limit=2, priority=5, **arguments)["job_id"]
            worker = prepared(server, urgent)
            wait_until(lambda: not is_alive(displaced), 60, lambda: f"it is there still: {server.log()}")
            assert client.get_job(second)["status"] == "queued"
            family = server.descendants()
            assert worker in {process.pid for process in family}

        server.kill()
        wait_until(
            lambda: not any(is_alive(process.pid) for process in family),
            30,
            lambda: f"orphans: {[process for process in family if process.is_running()]}",
        )

        server.start()
        with server.client() as client:
            client.cancel_job(running)
            for job_id in (urgent, second):
                assert client.wait_for_job(job_id, verbose=False, timeout=240)["status"] == "completed"
                assert client.get(job_id).attempt == 1
    finally:
        server.stop()


def test_a_server_that_keeps_models_frees_them_in_time_and_when_it_stops(tmp_path: Path, tiny_checkpoint: Path) -> None:
    other = build_checkpoint("idefics3", tmp_path / "other", seed=1)
    server = ServerProcess(tmp_path, "--devices", "cpu", "--keep-model-warm", "600").start()
    try:
        with server.client() as client:
            jobs = [
                client.evaluate(
                    model="idefics3", model_args={"pretrained": str(path)}, tasks=["handwritten_digits"], limit=4
                )["job_id"]
                for path in (tiny_checkpoint, other, tiny_checkpoint)
            ]
            for job_id in jobs:
                assert client.wait_for_job(job_id, verbose=False, timeout=240)["status"] == "completed"
            logs = [(server.state_dir / "jobs" / job_id / "worker.log").read_text() for job_id in jobs]
            assert ["became that of this job" in log for log in logs] == [False, True, True]
            workers = [process for process in server.descendants() if process.name() == "eval-worker"]
            assert len(workers) == 1
    finally:
        assert server.stop() == 0
    assert not any(is_alive(process.pid) for process in workers)

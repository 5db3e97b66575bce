"""``num_gpus=2`` through a real server with two CPU slots."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.conftest import ServerProcess


def test_a_job_on_two_devices_scores_as_on_one(tmp_path: Path, tiny_checkpoint: Path) -> None:
    server = ServerProcess(tmp_path, "--devices", "cpu", "--devices", "cpu").start()
    try:
        server.wait_warm()
        with server.client() as client:
            jobs = [
                client.evaluate(
                    model="idefics3", model_args={"pretrained": str(tiny_checkpoint)}, tasks=["handwritten_digits"],
                    limit=30, batch_size=4, gen_kwargs={"max_new_tokens": 4}, num_gpus=num_gpus,
                )["job_id"]
                for num_gpus in (1, 2)
            ]  # fmt: skip
            for job in jobs:
                assert client.wait_for_job(job, verbose=False, timeout=240)["status"] == "completed"
            one, two = (client.get(job).evaluation_result.task_results[0] for job in jobs)
            assert list(two.metrics) == list(one.metrics)
            samples = [{line["doc_id"]: line["responses"] for line in client.iter_samples(job)} for job in jobs]
            assert samples[0] == samples[1]
            assert len(samples[0]) == 30
    finally:
        assert server.stop() == 0

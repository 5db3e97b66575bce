"""A response cache on a real server: the second job of a checkpoint asks its model nothing."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.conftest import ServerProcess


def test_jobs_share_a_response_cache(server: ServerProcess, tiny_checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "responses"
    with server.client() as client:
        finished = []
        for limit in (4, 8):
            job_id = client.evaluate(
                model="idefics3",
                model_args={"pretrained": str(tiny_checkpoint)},
                tasks=["handwritten_digits"],
                limit=limit,
                use_cache=cache,
            )["job_id"]
            assert client.wait_for_job(job_id, verbose=False, timeout=240)["status"] == "completed", server.log()
            finished.append(client.get(job_id))
    first, second = finished
    assert (first.progress.samples_done, first.progress.samples_cached) == (4, 0)
    assert (second.progress.samples_done, second.progress.samples_cached) == (8, 4)
    assert second.evaluation_result.task_results[0].samples.scored == 8
    assert [path.name for path in cache.glob("*.sqlite3")] == ["responses.sqlite3"]

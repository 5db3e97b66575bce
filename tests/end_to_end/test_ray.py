"""A server whose jobs run in a real Ray cluster of two nodes, one of which is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.conftest import ServerProcess, wait_until
from tests.end_to_end.test_crash_recovery import answered
from tests.support.ray_cluster import RayCluster

pytest.importorskip("ray")
# A busy machine takes minutes to start a cluster.
pytestmark = pytest.mark.timeout(900)

PATIENCE = 240.0

HELD_TASK = """
task: held_digits
include: {digits}
tag: []
process_results: !function held.process_results
"""
HELD_FUNCTIONS = """
import time
from pathlib import Path

HOLD = Path(__file__).with_name("hold")


def process_results(doc, results):
    while HOLD.exists():
        time.sleep(0.05)
    return {"exact_match": float(results[0] == str(doc["label"]))}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_GRPC_CHECKPOINT_CACHE", str(tmp_path_factory.mktemp("checkpoints")))
        made = RayCluster(nodes=2)
        yield made
        made.shut_down()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits task with a scorer that waits while there is a file ``hold``: a job that is in the middle for as long
    as a test likes."""
    import lmms_eval_grpc.benchmarks

    digits = Path(lmms_eval_grpc.benchmarks.__path__[0]) / "handwritten_digits" / "handwritten_digits.yaml"
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "held.py").write_text(HELD_FUNCTIONS)
    (folder / "held_digits.yaml").write_text(HELD_TASK.format(digits=digits))
    return folder


@pytest.fixture
def hold(tasks: Path) -> Iterator[Path]:
    """Jobs stop at their first score until this file is removed."""
    file = tasks / "hold"
    file.touch()
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def server(cluster: RayCluster, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(
        tmp_path_factory.mktemp("server"),
        *("--include-path", str(tasks), "--executor", "ray", "--ray-address", cluster.address, "--ray-lease", "5"),
    ).start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def arguments(tiny_checkpoint: Path) -> dict[str, Any]:
    return {"model": "idefics3", "model_args": {"pretrained": str(tiny_checkpoint)}, "batch_size": 4}


def hosts(server: ServerProcess) -> dict[str, str]:
    """The job, or nothing, on each node that has a slot."""
    with server.client() as client:
        return {slot.device.partition("/")[0]: slot.job_id for slot in client.server_info().slots}


def worker(server: ServerProcess, job_id: str) -> psutil.Process:
    """The process that runs the job."""
    return psutil.Process(json.loads((server.state_dir / "jobs" / job_id / "worker.json").read_text())["pid"])


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def wait_for_answers(server: ServerProcess, job_id: str, number: int) -> None:
    wait_until(lambda: answered(server, job_id) >= number, PATIENCE, lambda: f"no answers: {server.log()}")


def test_a_job_has_the_same_results_and_samples_as_on_the_servers_own_machine(
    server: ServerProcess, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    outcomes = []
    here = ServerProcess(tmp_path).start()
    try:
        for place in (here, server):
            with place.client() as client:
                job_id = client.evaluate(tasks=["handwritten_digits"], limit=24, **arguments)["job_id"]
                assert client.wait_for_job(job_id, verbose=False, timeout=PATIENCE)["status"] == "completed"
                job = client.get(job_id)
                samples = sorted(client.iter_samples(job_id), key=lambda sample: sample["doc_id"])
                results = [(result.task, list(result.metrics)) for result in job.evaluation_result.task_results]
                manifest = json.loads(job.evaluation_result.manifest_json)
                outcomes.append((samples, results, manifest["model"]))
                assert client.server_info().executor == ("local" if place is here else "ray")
                assert job.devices[0].endswith("/cpu:0" if place is server else "cpu")
                assert "completed" in "".join(client.iter_logs(job_id))
    finally:
        here.stop()
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) == 24


def test_each_node_runs_one_job_and_a_cancelled_one_leaves_nothing(
    server: ServerProcess, cluster: RayCluster, arguments: dict[str, Any], hold: Path
) -> None:
    with server.client() as client:
        first, second, third = (
            client.evaluate(tasks=["held_digits"], limit=60, **arguments)["job_id"] for _ in range(3)
        )
        for job_id in (first, second):
            wait_for_answers(server, job_id, 4)
        assert set(hosts(server)) == cluster.names
        assert set(hosts(server).values()) == {first, second}
        assert client.get_queue_status()["queued_jobs"] == [third]
        processes = [worker(server, first), worker(server, second)]
        assert processes[0].pid != processes[1].pid

        client.cancel_job(first)
        assert client.wait_for_job(first, verbose=False, timeout=PATIENCE)["status"] == "cancelled"
        assert gone(processes[0])
        wait_for_answers(server, third, 4)
        assert set(hosts(server).values()) == {second, third}
        for job_id in (second, third):
            client.cancel_job(job_id)
            assert client.wait_for_job(job_id, verbose=False, timeout=PATIENCE)["status"] == "cancelled"


def test_the_job_of_a_killed_node_goes_on_at_another_and_a_new_node_is_used(
    server: ServerProcess, cluster: RayCluster, arguments: dict[str, Any], hold: Path
) -> None:
    with server.client() as client:
        job_id = client.evaluate(tasks=["held_digits"], limit=60, **arguments)["job_id"]
        wait_for_answers(server, job_id, 4)
        lost = client.get(job_id).devices[0].partition("/")[0]
        process = worker(server, job_id)
        cluster.kill_node(lost)
        wait_until(lambda: gone(process), PATIENCE, lambda: "the worker outlived its node")
        assert client.get(job_id).attempt == 1, "the first attempt's worker is gone before the second begins"
        before = answered(server, job_id)
        assert 4 <= before < 60
        hold.unlink()
        wait_until(lambda: client.get(job_id).attempt == 2, PATIENCE, lambda: f"no second attempt: {server.log()}")
        assert lost not in hosts(server)

        added = cluster.add_node()
        wait_until(lambda: added in hosts(server), PATIENCE, lambda: f"the new node has no slot: {server.log()}")
        url = {"pretrained": f"file://{arguments['model_args']['pretrained']}"}
        by_url = {**arguments, "model_args": url}
        other = client.evaluate(tasks=["handwritten_digits"], limit=2, device=added, **by_url)["job_id"]

        assert client.wait_for_job(job_id, verbose=False, timeout=PATIENCE)["status"] == "completed"
        job = client.get(job_id)
        assert job.devices[0].partition("/")[0] in cluster.names - {added}
        assert job.progress.samples_resumed == before
        assert job.evaluation_result.task_results[0].samples.scored == 60
        assert answered(server, job_id) == 60, "every sample was answered once"
        changes = [event.state_change for event in client.watch_job(job_id) if event.HasField("state_change")]
        assert [change.attempt for change in changes] == [0, 1, 1, 2, 2]
        assert changes[2].reason.startswith("host lost: ")

        assert client.wait_for_job(other, verbose=False, timeout=PATIENCE)["status"] == "completed"
        job = client.get(other)
        assert job.devices[0].startswith(f"{added}/")
        assert json.loads(job.evaluation_result.manifest_json)["model"]["pretrained"] == url["pretrained"]


def test_a_killed_server_leaves_no_worker_on_the_nodes_and_its_job_resumes(
    server: ServerProcess, cluster: RayCluster, arguments: dict[str, Any], hold: Path
) -> None:
    with server.client() as client:
        job_id = client.evaluate(tasks=["held_digits"], limit=60, **arguments)["job_id"]
        wait_for_answers(server, job_id, 4)
    process = worker(server, job_id)
    server.kill()
    wait_until(lambda: gone(process), 60, lambda: "the worker outlived its server")
    before = answered(server, job_id)
    hold.unlink()
    server.start()
    with server.client() as client:
        assert client.wait_for_job(job_id, verbose=False, timeout=PATIENCE)["status"] == "completed"
        job = client.get(job_id)
        assert (job.attempt, job.progress.samples_resumed) == (2, before)
        assert answered(server, job_id) == 60, "every sample was answered once"
        family = server.descendants()
    assert server.stop() == 0
    assert all(gone(one) for one in family)
    templates = [one for one in cluster.processes() if "lmms_eval_grpc" in " ".join(one.cmdline())]
    assert templates == [], "the cluster is as it was"

"""What Prometheus reads from a server, before and after things happened to it."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lmms_eval_grpc.jobs.events import Completed
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.server.app import EvaluationServer
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import job_pb2
from tests.jobs.examples import progress, result, task_result
from tests.scheduler.doubles import PATIENCE, ScriptedExecutor
from tests.server.conftest import NewRig, Rig, failure, following

SERVICE = "lmms_eval_grpc.v1.EvaluationService"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "observability.md"


class Scrape:
    """All samples at one moment."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def get(self, name: str, **labels: str) -> float:
        """A sample's value; 0 where there is none yet."""
        found = [one.value for one in self.samples if one.name == f"lmms_eval_grpc_{name}" and one.labels == labels]
        assert len(found) <= 1
        return found[0] if found else 0.0


async def scrape(rig: Rig) -> Scrape:
    assert rig.server.metrics_address is not None
    return Scrape((await fetch(rig.server.metrics_address)).decode())


async def fetch(address: str) -> bytes:
    def read() -> bytes:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE) as answer:
            content: bytes = answer.read()
            return content

    return await asyncio.to_thread(read)


async def settled(rig: Rig, name: str, value: float, **labels: str) -> Scrape:
    """What is read once a sample has a value: a client hears of a call's end before the server has counted it."""
    return await scraped(rig, lambda read: read.get(name, **labels) == value)


async def scraped(rig: Rig, condition: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape for which ``condition`` holds."""
    async with asyncio.timeout(PATIENCE):
        while True:
            read = await scrape(rig)
            if condition(read):
                return read
            await asyncio.sleep(0.01)


@pytest.fixture
async def rig(new_rig: NewRig) -> Rig:
    """A server with one CPU and metrics."""
    return await new_rig(metrics_port=0)


async def test_without_the_setting_there_is_no_endpoint(new_rig: NewRig) -> None:
    assert (await new_rig()).server.metrics_address is None


async def test_a_job_is_counted_from_its_submission_to_its_end(rig: Rig) -> None:
    fresh = await scrape(rig)
    assert fresh.get("queue_depth") == 0
    assert fresh.get("queue_capacity") == 1000
    assert fresh.get("accepting") == 1
    assert fresh.get("slot_busy", device="cpu") == 0
    assert fresh.get("jobs_submitted_total", kind="evaluation") == 0

    job_id, execution = await rig.running()
    waiting = await rig.submit()
    execution.tell(progress(30, samples_resumed=10, samples_cached=5, output_tokens=90))
    running = await settled(rig, "output_tokens_total", 90)
    assert running.get("queue_depth") == 1
    assert running.get("jobs", state="running") == 1
    assert running.get("jobs", state="queued") == 1
    assert running.get("slot_busy", device="cpu") == 1
    assert running.get("slot_busy_seconds_total", device="cpu") > 0
    assert running.get("jobs_submitted_total", kind="evaluation") == 2
    assert running.get("attempts_total", kind="evaluation") == 1
    assert running.get("samples_answered_total", source="model") == 15
    assert running.get("samples_answered_total", source="cache") == 5
    assert running.get("job_wait_seconds_count", kind="evaluation") == 1

    execution.tell(progress(100, samples_resumed=10, samples_cached=5, output_tokens=400))
    execution.tell(task_result(), Completed(result()))
    await rig.ended(job_id)
    await rig.stub.CancelJob(pb.CancelJobRequest(job_id=waiting.job_id))
    await rig.ended(waiting.job_id)
    ended = await settled(rig, "jobs", 1, state="cancelled")
    assert ended.get("jobs", state="completed") == 1
    assert ended.get("jobs_ended_total", kind="evaluation", outcome="completed") == 1
    assert ended.get("jobs_ended_total", kind="evaluation", outcome="cancelled") == 1
    assert ended.get("samples_answered_total", source="model") == 85
    assert ended.get("output_tokens_total") == 400
    assert ended.get("samples_scored_total") == 100
    assert ended.get("input_tokens_total") == 7
    assert ended.get("job_run_seconds_count", kind="evaluation", outcome="completed") == 1
    assert ended.get("slot_busy_seconds_total", device="cpu") >= running.get("slot_busy_seconds_total", device="cpu")
    assert ended.get("store_commit_seconds_count") > fresh.get("store_commit_seconds_count")
    assert ended.get("store_writes_total") >= ended.get("store_commit_seconds_count")
    assert ended.get("state_dir_bytes") > 0
    assert ended.get("state_dir_free_bytes") > 0
    assert ended.get("template_warm") == 1


async def test_failures_and_retries_are_counted_by_their_cause(rig: Rig) -> None:
    spec = rig.spec()
    spec.retry_policy.max_attempts = 2
    spec.retry_policy.retry_on.append(job_pb2.JOB_ERROR_CODE_WORKER_DIED)
    job_id, execution = await rig.running(spec=spec)
    execution.fail()
    second = await rig.executor.execution(job_id, 2)
    second.fail(JobError(JobErrorCode.OUT_OF_MEMORY, "OUT_OF_MEMORY", "too large"))
    await rig.ended(job_id)
    read = await settled(rig, "jobs_ended_total", 1, kind="evaluation", outcome="failed")
    assert read.get("attempts_total", kind="evaluation") == 2
    assert read.get("requeues_total", cause="failed") == 1
    assert read.get("job_failures_total", code="worker_died") == 1
    assert read.get("job_failures_total", code="out_of_memory") == 1
    assert read.get("job_wait_seconds_count", kind="evaluation") == 1


async def test_calls_are_counted_by_method_and_code(rig: Rig) -> None:
    await rig.stub.ListJobs(pb.ListJobsRequest())
    await failure(rig.stub.GetJob(pb.GetJobRequest(job_id="nope")))
    await failure(rig.stub.GetJob(pb.GetJobRequest()))
    method: Any = rig.channel.unary_unary(f"/{SERVICE}/GetJob")
    await failure(method(b"\xff\xff\xff\xff"))
    get_job = f"{SERVICE}/GetJob"
    read = await settled(rig, "rpc_handled_total", 2, method=get_job, code="INVALID_ARGUMENT")
    assert read.get("rpc_handled_total", method=get_job, code="NOT_FOUND") == 1
    assert read.get("rpc_started_total", method=get_job) == 3
    assert read.get("rpc_handled_total", method=f"{SERVICE}/ListJobs", code="OK") == 1
    assert read.get("rpc_seconds_count", method=f"{SERVICE}/ListJobs", code="OK") == 1
    assert read.get("rpc_seconds_count", method=get_job, code="INVALID_ARGUMENT") == 2
    assert read.get("refusals_total", reason="INVALID_REQUEST") == 2
    assert read.get("refusals_total", reason="JOB_NOT_FOUND") == 1


async def test_a_bug_and_a_call_that_is_given_up_have_their_codes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asyncio.Event()

    async def wait(*args: Any) -> None:
        reached.set()
        await asyncio.sleep(PATIENCE)

    async def break_down(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lmms_eval_grpc.server.listings.list_jobs", wait)
    monkeypatch.setattr("lmms_eval_grpc.server.listings.list_tasks", break_down)
    call = rig.stub.ListJobs(pb.ListJobsRequest())
    await reached.wait()
    call.cancel()
    await failure(rig.stub.ListTasks(pb.ListTasksRequest()))
    await settled(rig, "rpc_handled_total", 1, method=f"{SERVICE}/ListTasks", code="INTERNAL")
    await settled(rig, "rpc_handled_total", 1, method=f"{SERVICE}/ListJobs", code="CANCELLED")


async def test_methods_that_there_are_none_of_share_one_label(rig: Rig) -> None:
    for number in range(5):
        method: Any = rig.channel.unary_unary(f"/made.up.Service{number}/Method")
        error = await failure(method(b""))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    read = await settled(rig, "rpc_handled_total", 5, method="other", code="UNIMPLEMENTED")
    assert not [one for one in read.samples if "made.up" in one.labels.get("method", "")]


async def test_open_streams_and_their_messages_are_counted_and_a_cancelled_one_is_no_longer_open(rig: Rig) -> None:
    job_id, execution = await rig.running()
    method = f"{SERVICE}/WatchJob"
    calls = [rig.stub.WatchJob(pb.WatchJobRequest(job_id=job_id)) for _ in range(3)]
    for call in calls:
        assert (await call.read()).HasField("snapshot")
    read = await scrape(rig)
    assert read.get("open_streams", method=method) == 3
    assert read.get("stream_messages_sent_total", method=method) == 3
    calls[0].cancel()
    await settled(rig, "open_streams", 2, method=method)
    execution.complete()
    for call in calls[1:]:
        assert [message.event.HasField("state_change") async for message in following(call)] == [True]
    ended = await settled(rig, "open_streams", 0, method=method)
    assert ended.get("stream_messages_sent_total", method=method) == 5
    assert ended.get("rpc_handled_total", method=method, code="OK") == 2
    assert ended.get("rpc_handled_total", method=method, code="CANCELLED") == 1


async def test_a_refused_stream_is_counted_with_its_reason(new_rig: NewRig) -> None:
    rig = await new_rig(metrics_port=0, max_watches=1)
    call = rig.stub.WatchQueue(pb.WatchQueueRequest())
    await call.read()
    await failure(rig.stub.WatchQueue(pb.WatchQueueRequest()))
    read = await settled(rig, "refusals_total", 1, reason="TOO_MANY_WATCHES")
    assert read.get("open_streams", method=f"{SERVICE}/WatchQueue") == 1


async def test_no_label_names_a_job_a_principal_or_a_client(rig: Rig) -> None:
    job_id, execution = await rig.running()
    execution.complete()
    await rig.ended(job_id)
    allowed = {
        *("method", "code", "reason", "state", "kind", "outcome", "cause", "source", "device", "le"),
        *("version", "python", "grpc"),
    }
    read = await settled(rig, "jobs", 1, state="completed")
    assert {label for one in read.samples for label in one.labels} <= allowed
    assert not [one for one in read.samples if job_id in one.labels.values()]


async def test_the_event_loop_and_the_process_are_watched(rig: Rig) -> None:
    before = await scraped(rig, lambda read: read.get("event_loop_lag_seconds_count") >= 2)
    time.sleep(0.6)  # noqa: ASYNC251 (so that the loop is late)
    await scraped(rig, lambda read: late(read) > late(before))
    assert before.families["process_resident_memory_bytes"].samples[0].value > 1e6


def late(read: Scrape) -> float:
    """How often the loop was more than a quarter of a second late."""
    return read.get("event_loop_lag_seconds_count") - read.get("event_loop_lag_seconds_bucket", le="0.25")


async def test_two_servers_in_one_process_do_not_share_their_counts(new_rig: NewRig, tmp_path: Path) -> None:
    one = await new_rig(metrics_port=0)
    other = await new_rig(metrics_port=0, state_dir=tmp_path / "other")
    await one.submit()
    assert (await scrape(one)).get("jobs_submitted_total", kind="evaluation") == 1
    assert (await scrape(other)).get("jobs_submitted_total", kind="evaluation") == 0


async def test_the_endpoint_ends_with_its_server(rig: Rig) -> None:
    address = rig.server.metrics_address
    assert address is not None
    assert await fetch(address)
    await rig.server.stop(0)
    with pytest.raises(OSError):
        await fetch(address)


async def test_while_the_event_loop_is_stuck_the_rest_is_still_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmms_eval_grpc.server.metrics.state.LOOP_TIMEOUT", 0.05)
    stuck = asyncio.Event()

    async def counts() -> Mapping[Any, int]:
        await stuck.wait()
        return {}

    monkeypatch.setattr(rig.server._scheduler, "counts", counts)
    read = await scrape(rig)
    assert "lmms_eval_grpc_queue_depth" not in read.families
    assert read.get("state_dir_free_bytes") > 0
    stuck.set()


async def test_a_port_that_is_taken_is_named_before_anything_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        args = ServerArgs(port=0, state_dir=tmp_path / "state", metrics_port=port)
        executor = ScriptedExecutor()
        with pytest.raises(ServerStartError, match=f"metrics_port: cannot listen on 127.0.0.1:{port}"):
            await EvaluationServer(args, executor=executor).start()
    assert not executor.started


def test_without_the_package_the_setting_is_refused_with_the_remedy(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "from lmms_eval_grpc.server.app import EvaluationServer\n"
        "from lmms_eval_grpc.server.config import ServerArgs\n"
        "args = ServerArgs(port=0, state_dir=sys.argv[1], use_template=False, metrics_port=0)\n"
        "asyncio.run(EvaluationServer(args).start())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=4 * PATIENCE)
    last = done.stderr.decode().splitlines()[-1]
    assert last.endswith(
        "ServerStartError: metrics_port: metrics need the package prometheus_client:"
        " pip install 'lmms-eval-grpc[server]', or leave the setting out"
    )


async def test_the_table_in_the_documents_is_what_a_server_tells(rig: Rig) -> None:
    told = {
        (family.name, family.type)
        for family in (await scrape(rig)).families.values()
        if not family.name.endswith("_created")
    }
    rows = re.findall(r"^\| `(lmms_eval_grpc_\w+)` \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {(name.removesuffix("_total") if kind == "counter" else name, kind) for name, kind in rows}
    assert {one for one in told if one[0].startswith("lmms_eval_grpc_")} == documented

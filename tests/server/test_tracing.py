"""Traces, as a collector receives them: from a caller's span to the last stage of its job."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider

from lmms_eval_grpc.client import AsyncEvalClient, EvalClient
from lmms_eval_grpc.jobs.events import Completed
from lmms_eval_grpc.jobs.results import JobStage
from lmms_eval_grpc.server.app import EvaluationServer
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.server.tracing.setup import open_tracing
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from lmms_eval_grpc.v1 import job_pb2
from tests.jobs.examples import progress, result
from tests.scheduler.doubles import PATIENCE, ScriptedExecutor
from tests.server.conftest import NewRig, Rig, failure
from tests.support.otlp_collector import Collector, attributes, collecting

SERVICE = "lmms_eval_grpc.v1.EvaluationService"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
PARENT = (("traceparent", f"00-{TRACE}-{CALLER}-01"),)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


async def submit(rig: Rig, metadata: tuple[tuple[str, str], ...] = PARENT) -> str:
    response = await rig.stub.Evaluate(pb.EvaluateRequest(spec=rig.spec()), metadata=metadata)
    job_id: str = response.job.job_id
    return job_id


async def test_a_jobs_spans_are_one_tree_below_the_callers_span(new_rig: NewRig, collector: Collector) -> None:
    rig = await new_rig(otlp_endpoint=collector.url)
    job_id = await submit(rig)
    execution = await rig.executor.execution(job_id)
    for stage in (JobStage.PREPARING, JobStage.LOADING_MODEL, JobStage.GENERATING, JobStage.SCORING, JobStage.WRITING):
        execution.tell(progress(1, stage=stage))
        await reaches(rig, job_id, stage)
    execution.tell(Completed(result()))
    await rig.ended(job_id)
    await rig.server.stop(0)

    call, job, attempt = collector.one(f"{SERVICE}/Evaluate"), collector.one("job"), collector.one("attempt")
    assert {span.trace_id.hex() for span in (call, job, attempt)} == {TRACE}
    assert call.parent_span_id.hex() == CALLER
    assert call.kind == Span.SPAN_KIND_SERVER
    assert job.parent_span_id == call.span_id
    assert collector.children(job) == [collector.one("queued"), attempt]
    stages = collector.children(attempt)
    names = ["starting", "preparing", "loading_model", "generating", "scoring", "writing"]
    assert [span.name for span in stages] == names
    for earlier, later in itertools.pairwise(stages):
        assert earlier.end_time_unix_nano == later.start_time_unix_nano
    assert stages[0].start_time_unix_nano == attempt.start_time_unix_nano
    assert stages[-1].end_time_unix_nano == attempt.end_time_unix_nano == job.end_time_unix_nano
    assert collector.one("queued").end_time_unix_nano == attempt.start_time_unix_nano
    assert job.start_time_unix_nano >= call.start_time_unix_nano

    assert attributes(call)["rpc.method"] == "Evaluate"
    assert attributes(call)["rpc.grpc.status_code"] == 0
    assert attributes(call)["lmms_eval.job_id"] == attributes(job)["lmms_eval.job_id"] == job_id
    assert attributes(job)["lmms_eval.state"] == "completed"
    assert job.status.code == Status.STATUS_CODE_UNSET
    assert collector.paths == {"/v1/traces"}
    assert collector.services == {"lmms-eval-grpc"}


async def reaches(rig: Rig, job_id: str, stage: JobStage) -> None:
    async for message in rig.watch(job_id):
        told = message.event.progress if message.HasField("event") else message.snapshot.progress
        if told.stage == job_pb2.JobStage.Value(f"JOB_STAGE_{stage.name}"):
            return


async def test_a_job_goes_on_in_its_trace_after_a_restart(new_rig: NewRig, collector: Collector) -> None:
    first = await new_rig(otlp_endpoint=collector.url)
    job_id = await submit(first)
    waiting = await submit(first, ())
    await first.executor.execution(job_id)
    await first.server.stop(0)
    second = await new_rig(otlp_endpoint=collector.url)
    for wanted, attempt in ((job_id, 2), (waiting, 1)):
        (await second.executor.execution(wanted, attempt)).complete()
        await second.ended(wanted)
    await second.server.stop(0)

    by_job = {attributes(span)["lmms_eval.job_id"]: span for span in collector.named("job")}
    job = by_job[job_id]
    assert job.trace_id.hex() == TRACE
    children = collector.children(job)
    assert [span.name for span in children] == ["queued", "attempt", "queued", "attempt"]
    assert {span.trace_id for span in children} == {job.trace_id}
    lost, done = (attributes(span) for span in children if span.name == "attempt")
    assert (lost["lmms_eval.attempt"], lost["lmms_eval.next_state"]) == (1, "queued")
    assert lost["lmms_eval.reason"] == "server stopped"
    assert (done["lmms_eval.attempt"], done["lmms_eval.next_state"]) == (2, "completed")
    # Without a caller's span, the call that submits a job is the root.
    other = by_job[waiting]
    assert [span.name for span in collector.children(other)] == ["queued", "attempt"]
    (root,) = [span for span in collector.spans if span.span_id == other.parent_span_id]
    assert (root.name, root.parent_span_id) == (f"{SERVICE}/Evaluate", b"")


async def test_a_failure_is_the_status_of_the_attempt_and_of_the_job(new_rig: NewRig, collector: Collector) -> None:
    rig = await new_rig(otlp_endpoint=collector.url)
    job_id = await submit(rig)
    (await rig.executor.execution(job_id)).fail()
    await rig.ended(job_id)
    await rig.server.stop(0)
    for span in (collector.one("attempt"), collector.one("job")):
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert span.status.message == attributes(span)["error.type"] == "WORKER_KILLED"


async def test_a_cancelled_job_that_never_ran_has_no_attempt(new_rig: NewRig, collector: Collector) -> None:
    rig = await new_rig(otlp_endpoint=collector.url)
    await rig.running()
    job_id = await submit(rig)
    await rig.stub.CancelJob(pb.CancelJobRequest(job_id=job_id, reason="not needed"))
    await rig.ended(job_id)
    await rig.server.stop(0)
    job = collector.one("job")
    (queued,) = collector.children(job)
    assert queued.name == "queued"
    assert attributes(queued)["lmms_eval.reason"] == "not needed"
    assert attributes(job)["lmms_eval.state"] == "cancelled"


async def test_a_refused_call_is_no_error_of_the_server(new_rig: NewRig, collector: Collector) -> None:
    rig = await new_rig(otlp_endpoint=collector.url)
    await failure(rig.stub.GetJob(pb.GetJobRequest(job_id="nope")))
    await rig.server.stop(0)
    span = collector.one(f"{SERVICE}/GetJob")
    assert attributes(span)["error.type"] == "JOB_NOT_FOUND"
    assert attributes(span)["rpc.grpc.status_code"] == 5
    assert span.status.code == Status.STATUS_CODE_UNSET


async def test_what_the_caller_does_not_sample_is_not_sent(new_rig: NewRig, collector: Collector) -> None:
    rig = await new_rig(otlp_endpoint=collector.url)
    job_id = await submit(rig, (("traceparent", f"00-{TRACE}-{CALLER}-00"),))
    (await rig.executor.execution(job_id)).complete()
    await rig.ended(job_id)
    await rig.server.stop(0)
    assert not collector.named("job")
    assert TRACE not in {span.trace_id.hex() for span in collector.spans}


async def test_both_clients_tell_the_server_the_span_that_is_active(new_rig: NewRig, collector: Collector) -> None:
    rig = await new_rig(otlp_endpoint=collector.url)
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("training") as training:
        async with AsyncEvalClient(rig.server.address) as client:
            await client.list_models()

        def ask() -> None:
            with trace.use_span(training), EvalClient(rig.server.address) as client:
                client.list_models()

        await asyncio.to_thread(ask)
    async with AsyncEvalClient(rig.server.address) as client:
        await client.list_models()
    await rig.server.stop(0)
    *within, outside = collector.named(f"{SERVICE}/ListModels")
    own = training.get_span_context()
    assert [int.from_bytes(span.parent_span_id, "big") for span in within] == [own.span_id] * 2
    assert {int.from_bytes(span.trace_id, "big") for span in within} == {own.trace_id}
    assert outside.parent_span_id == b""


def test_a_client_without_opentelemetry_imports_none_of_it() -> None:
    code = (
        "import sys; from lmms_eval_grpc import EvalClient; from lmms_eval_grpc.client.tracing import trace_metadata;"
        "EvalClient('127.0.0.1:1'); assert trace_metadata() == ();"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=4 * PATIENCE, check=True)
    assert done.stdout.strip() == b"[]"


def test_a_server_without_traces_and_metrics_imports_neither_library(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from lmms_eval_grpc.server.app import EvaluationServer\n"
        "from lmms_eval_grpc.server.config import ServerArgs\n"
        "async def main():\n"
        "    async with EvaluationServer(ServerArgs(port=0, state_dir=sys.argv[1], use_template=False)):\n"
        "        pass\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus'))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=4 * PATIENCE, check=True
    )
    assert done.stdout.strip() == b"[]"


async def test_opentelemetrys_own_variables_are_heeded(
    new_rig: NewRig, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=hush")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "evaluations")
    rig = await new_rig()
    await rig.submit()
    await rig.server.stop(0)
    assert collector.one(f"{SERVICE}/Evaluate")
    assert collector.services == {"evaluations"}
    assert collector.headers[0]["x-token"] == "hush"


async def test_a_collector_that_is_away_delays_neither_calls_nor_the_stop(
    new_rig: NewRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmms_eval_grpc.server.tracing.service.LAST_EXPORT", 0.2)
    rig = await new_rig(otlp_endpoint="http://127.0.0.1:9")
    await rig.submit()
    async with asyncio.timeout(PATIENCE):
        await rig.server.stop(0)


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://", "http://collector:port"])
async def test_an_endpoint_that_is_no_url_is_refused(endpoint: str, tmp_path: Path) -> None:
    args = ServerArgs(port=0, state_dir=tmp_path, otlp_endpoint=endpoint)
    with pytest.raises(ServerStartError, match=r"otlp_endpoint: .* is not the URL of a collector; write it like"):
        await EvaluationServer(args, executor=ScriptedExecutor()).start()


def test_a_password_in_the_endpoint_is_refused_and_not_repeated() -> None:
    with pytest.raises(ServerStartError, match="OTEL_EXPORTER_OTLP_HEADERS") as caught:
        open_tracing("http://me:hush@collector:4318", {})
    assert "hush" not in str(caught.value)


def test_without_the_packages_the_setting_is_an_error_and_a_variable_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find = importlib.util.find_spec

    def find_nothing(name: str, *rest: Any) -> Any:
        return None if name.startswith("opentelemetry") else find(name, *rest)

    monkeypatch.setattr("importlib.util.find_spec", find_nothing)
    with pytest.raises(ServerStartError, match=r"pip install 'lmms-eval-grpc\[tracing\]'"):
        open_tracing("http://127.0.0.1:4318", {})
    assert open_tracing("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318"}) is None
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, but traces need OpenTelemetry" in caplog.text


def test_variables_for_another_protocol_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert open_tracing("", environ) is None
    assert "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'" in caplog.text
    assert open_tracing("", {**environ, "OTEL_SDK_DISABLED": "true"}) is None
    assert open_tracing("", {}) is None

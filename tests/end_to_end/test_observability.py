"""Metrics, traces and log of a server process that is killed while a real worker evaluates."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

from tests.end_to_end.conftest import ServerProcess, wait_until
from tests.support.otlp_collector import attributes, collecting


def metric(server: ServerProcess, sample: str) -> float:
    """A sample that the process of now tells; 0 where there is none."""
    address = re.findall(r"metrics on (http://\S+?)\"", server.log())[-1]
    with urllib.request.urlopen(address, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"lmms_eval_grpc_{sample}"))


@pytest.mark.slow
def test_a_job_is_followed_from_its_submitter_across_a_killed_server(
    tmp_path: Path, slow_task: Path, tiny_checkpoint: Path
) -> None:
    with collecting() as collector:
        flags = ("--metrics-port", "0", "--log-format", "json", "--otlp-endpoint", collector.url)
        server = ServerProcess(tmp_path, "--include-path", str(slow_task), *flags).start()

        def counts(sample: str, at_least: float) -> Callable[[], bool]:
            return lambda: metric(server, sample) >= at_least

        try:
            with (
                server.client() as client,
                TracerProvider().get_tracer("test").start_as_current_span("training") as training,
            ):
                job_id = client.evaluate(
                    model="idefics3",
                    model_args={"pretrained": str(tiny_checkpoint)},
                    tasks=["slow_digits"],
                    limit=40,
                    batch_size=4,
                )["job_id"]
            wait_until(counts("samples_answered_total", 8), 240, server.log)
            assert metric(server, 'slot_busy{device="cpu"}') == 1
            server.kill()
            server.start()
            with server.client() as client:
                assert client.wait_for_job(job_id, verbose=False, timeout=240)["status"] == "completed"
            assert metric(server, 'jobs_ended_total{kind="evaluation",outcome="completed"}') == 1
            assert 0 < metric(server, "samples_answered_total") <= 32
            assert metric(server, "samples_scored_total") == 40
            assert metric(server, "output_tokens_total") > 0
            assert metric(server, "input_tokens_total") > 0
        finally:
            server.stop()

    job = collector.one("job")
    assert int.from_bytes(job.trace_id, "big") == training.get_span_context().trace_id
    lost, done = (span for span in collector.children(job) if span.name == "attempt")
    assert attributes(lost)["lmms_eval.next_state"] == "queued"
    assert attributes(done)["lmms_eval.next_state"] == "completed"
    assert lost.start_time_unix_nano < lost.end_time_unix_nano <= done.start_time_unix_nano
    stages = [span.name for span in collector.children(done)]
    assert stages[0] == "starting"
    assert "generating" in stages

    lines = [json.loads(line) for line in server.log().splitlines()]
    assert {line["job_id"] for line in lines if line.get("method", "").endswith("/Evaluate")} == {job_id}
    assert training.get_span_context().trace_id == int(
        next(line["trace_id"] for line in lines if "trace_id" in line), 16
    )

"""Every method, by a real client."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
import uuid

import grpc.aio
import pytest

from lmms_eval_grpc.jobs.events import Completed
from lmms_eval_grpc.jobs.results import JobStage, Metric, TaskResult
from lmms_eval_grpc.v1 import catalog_pb2, job_pb2
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from tests.jobs.examples import progress, result, task_result
from tests.scheduler.doubles import until
from tests.server.conftest import TASK, NewRig, Rig


async def test_a_job_is_returned_as_it_was_accepted(rig: Rig) -> None:
    spec = rig.spec(
        num_fewshot=0,
        offset=3,
        predict_only=True,
        log_samples=False,
        system_instruction="be brief",
        seeds=job_pb2.Seeds(torch=7),
        limit=job_pb2.SampleLimit(fraction=0.5),
        batch_size=job_pb2.BatchSize(fixed=4),
    )
    spec.gen_kwargs.update({"max_new_tokens": 16, "temperature": 0.5, "until": ["\n"]})
    spec.run_timeout.FromSeconds(90)
    job = await rig.submit(spec=spec, labels={"run": "sft-7"}, priority=3)
    assert job.kind == job_pb2.JOB_KIND_EVALUATION
    assert job.state == job_pb2.JOB_STATE_QUEUED
    assert job.queue_position == 0
    assert job.labels == {"run": "sft-7"}
    assert job.priority == 3
    kept = job.evaluation
    for name in (
        "model",
        "tasks",
        "offset",
        "predict_only",
        "log_samples",
        "system_instruction",
        "limit",
        "batch_size",
    ):
        assert getattr(kept, name) == getattr(spec, name), name
    assert kept.model_args == spec.model_args
    assert kept.gen_kwargs == spec.gen_kwargs
    assert kept.run_timeout == spec.run_timeout
    assert kept.seeds == job_pb2.Seeds(python=0, numpy=1234, torch=7, fewshot=1234)
    assert kept.num_gpus == 1


async def test_whole_numbers_reach_the_worker_as_integers(rig: Rig) -> None:
    spec = rig.spec()
    spec.gen_kwargs.update({"max_new_tokens": 16, "temperature": 0.5})
    spec.gen_kwargs.update({"constraints": {"values": [1, 2.5, True, None, "9"]}})
    _, execution = await rig.running(spec=spec)
    received = execution.job.spec.gen_kwargs  # type: ignore[union-attr]
    assert received == {
        "max_new_tokens": 16,
        "temperature": 0.5,
        "constraints": {"values": [1, 2.5, True, None, "9"]},
    }
    assert type(received["max_new_tokens"]) is int
    assert [type(value) for value in received["constraints"]["values"]] == [int, float, bool, type(None), str]


async def test_samples_are_logged_and_one_device_is_taken_unless_asked_otherwise(rig: Rig) -> None:
    _, execution = await rig.running()
    spec = execution.job.spec
    assert (spec.log_samples, spec.num_gpus, spec.batch_size) == (True, 1, None)  # type: ignore[union-attr]


async def test_validate_only_queues_nothing(rig: Rig) -> None:
    response = await rig.stub.Evaluate(pb.EvaluateRequest(spec=rig.spec(), validate_only=True))
    assert not response.HasField("job")
    assert not (await rig.stub.ListJobs(pb.ListJobsRequest())).jobs


async def test_a_repeated_request_gets_its_job_also_when_its_checkpoint_has_gone(rig: Rig) -> None:
    key = str(uuid.uuid4())
    first = await rig.submit(request_id=key)
    shutil.rmtree(rig.checkpoint)
    again = await rig.submit(request_id=key)
    assert again.job_id == first.job_id
    with pytest.raises(grpc.aio.AioRpcError, match="does not exist"):
        await rig.submit(request_id=key, labels={"another": "payload"})


async def test_the_same_request_id_makes_one_job(rig: Rig) -> None:
    key = str(uuid.uuid4())
    first = await rig.submit(request_id=key, labels={"b": "2", "a": "1"})
    again = await rig.submit(request_id=key.upper(), labels={"a": "1", "b": "2"})
    assert again.job_id == first.job_id
    assert again.request_id == key
    assert len((await rig.stub.ListJobs(pb.ListJobsRequest())).jobs) == 1


async def test_a_completed_job_carries_its_results(rig: Rig) -> None:
    job_id, execution = await rig.running()
    metric = Metric("exact_match", "none", 0.5, 0.1, 0.3, 0.7, 0.95, "t", True, 100)
    outcome = TaskResult(TASK, "1.0", (metric,), 100, 99, 1, 2.5)
    execution.tell(progress(10), outcome, Completed(dataclasses.replace(result(), task_results=(outcome,))))
    job = await rig.ended(job_id)
    assert job.state == job_pb2.JOB_STATE_COMPLETED
    assert job.attempt == 1
    assert job.devices == ["cpu"]
    assert job.end_time.ToNanoseconds() >= job.start_time.ToNanoseconds() >= job.create_time.ToNanoseconds()
    assert job.task_results == job.evaluation_result.task_results
    (told,) = job.task_results[0].metrics
    assert (told.name, told.value, told.standard_error, told.higher_is_better) == ("exact_match", 0.5, 0.1, True)
    assert told.confidence_interval == job_pb2.ConfidenceInterval(lower=0.3, upper=0.7, level=0.95, method="t")
    assert job.task_results[0].samples == job_pb2.SampleCounts(asked=100, scored=99, errored=1)
    assert json.loads(job.evaluation_result.results_json) == {"results": {}}
    assert job.evaluation_result.group_results[0].group == "all"
    assert job.evaluation_result.throughput.stage_elapsed["generate"].ToMilliseconds() == 1500
    assert not job.HasField("queue_position")

    basic = await rig.get(job_id, view=job_pb2.JOB_VIEW_BASIC)
    assert basic.state == job_pb2.JOB_STATE_COMPLETED
    assert not basic.task_results
    assert basic.WhichOneof("result") is None


async def test_a_failed_job_is_an_ok_response_with_its_error(rig: Rig) -> None:
    job_id, execution = await rig.running()
    execution.fail()
    job = await rig.ended(job_id)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert job.error.code == job_pb2.JOB_ERROR_CODE_WORKER_DIED
    assert job.error.reason == "WORKER_KILLED"
    assert job.error.details == {"signal": "SIGKILL"}


async def test_progress_is_shown_while_a_job_runs(rig: Rig) -> None:
    job_id, execution = await rig.running()
    execution.tell(progress(10, remaining_seconds=float("inf")))
    async for message in rig.watch(job_id, after_sequence=0):
        if message.event.HasField("progress"):
            break
    shown = (await rig.get(job_id)).progress
    assert shown.stage == job_pb2.JobStage.Value(f"JOB_STAGE_{JobStage.GENERATING.name}")
    assert (shown.samples_done, shown.samples_total) == (10, 100)


async def test_a_queued_job_is_cancelled_at_once_and_a_running_one_by_way_of_cancelling(rig: Rig) -> None:
    running, execution = await rig.running()
    waiting = (await rig.submit()).job_id
    cancelled = (await rig.stub.CancelJob(pb.CancelJobRequest(job_id=waiting, reason="superseded"))).job
    assert (cancelled.state, cancelled.cancel_reason) == (job_pb2.JOB_STATE_CANCELLED, "superseded")

    rig.executor.obedient = False
    execution._obedient = False
    cancelling = (await rig.stub.CancelJob(pb.CancelJobRequest(job_id=running, reason="stop"))).job
    assert cancelling.state == job_pb2.JOB_STATE_CANCELLING
    await until(lambda: execution.cancellations == ["stop"])
    execution.fail()
    assert (await rig.ended(running)).state == job_pb2.JOB_STATE_CANCELLED
    unchanged = (await rig.stub.CancelJob(pb.CancelJobRequest(job_id=running, reason="again"))).job
    assert (unchanged.state, unchanged.cancel_reason) == (job_pb2.JOB_STATE_CANCELLED, "stop")


async def test_the_queue_is_shown_with_its_order_counts_and_slots(new_rig: NewRig) -> None:
    rig = await new_rig("cuda:0", "cuda:1")
    running, execution = await rig.running()
    wide = rig.spec(num_gpus=2)
    ordinary = [(await rig.submit(spec=wide)).job_id for _ in range(2)]
    urgent = (await rig.submit(spec=wide, priority=5)).job_id
    queue = (await rig.stub.QueueStatus(pb.QueueStatusRequest())).queue
    assert queue.accepting
    assert queue.running_job_ids == [running]
    assert queue.queued_job_ids == [urgent, *ordinary]
    assert [slot.device for slot in queue.slots] == ["cuda:0", "cuda:1"]
    assert [slot.job_id for slot in queue.slots] == [running, ""]
    assert (await rig.get(ordinary[0])).queue_position == 1
    execution.complete()
    await rig.ended(running)
    await rig.stub.CancelJob(pb.CancelJobRequest(job_id=ordinary[1]))
    queue = (await rig.stub.QueueStatus(pb.QueueStatusRequest())).queue
    assert (queue.completed_count, queue.failed_count, queue.cancelled_count) == (1, 0, 1)
    assert queue.capacity == 1000


async def test_the_server_describes_itself_without_importing_what_it_describes(new_rig: NewRig) -> None:
    rig = await new_rig(max_queued_jobs=7, max_watches=9)
    info = (await rig.stub.GetServerInfo(pb.GetServerInfoRequest())).server
    assert info.version
    assert info.instance_id
    assert info.package_versions["grpcio"] == importlib.metadata.version("grpcio")
    assert info.limits.max_queued_jobs == 7
    assert info.limits.max_watches == 9
    assert [slot.device for slot in info.slots] == ["cpu"]
    assert info.jobs_started == 0
    assert "evaluate" in info.capabilities
    assert "merge" in info.capabilities
    await rig.running()
    again = (await rig.stub.GetServerInfo(pb.GetServerInfoRequest())).server
    assert (again.jobs_started, again.instance_id) == (1, info.instance_id)


async def test_models_are_listed_with_their_arguments(rig: Rig) -> None:
    models = (await rig.stub.ListModels(pb.ListModelsRequest())).models
    names = [model.name for model in models]
    assert names == sorted(names)
    (huggingface,) = [model for model in models if model.name == "huggingface"]
    assert huggingface.kind == catalog_pb2.MODEL_KIND_CHAT
    assert "image" in huggingface.modalities
    arguments = {argument.name: argument for argument in huggingface.arguments}
    assert arguments["pretrained"].required
    assert arguments["pretrained"].value_type == "string"
    assert arguments["max_new_tokens"].value_type == "integer"
    assert arguments["strict_weights"].default_value == "true"


@pytest.mark.parametrize("size", [1_000_000, 2_500_000])
async def test_a_job_with_a_large_results_document_fits_into_a_response(rig: Rig, size: int) -> None:
    job_id, execution = await rig.running()
    document = json.dumps({"text": "x" * size})
    outcome = dataclasses.replace(
        result(), results_json=document, results_path="results.json", manifest_json='{"m": "' + "y" * 2_000_000 + '"}'
    )
    execution.tell(task_result(), Completed(outcome))
    job = await rig.ended(job_id)
    assert job.ByteSize() < 4 * 1024 * 1024
    assert job.evaluation_result.results_json_omitted == (size > 2 * 1024 * 1024)
    assert (job.evaluation_result.results_json == document) != job.evaluation_result.results_json_omitted
    assert job.evaluation_result.results_path == "results.json"
    assert len(job.task_results) == 1

"""Whose job it is, and what follows from that."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import pytest

from lmms_eval_grpc.client import AsyncEvalClient
from lmms_eval_grpc.v1 import admin_service_pb2 as admin_pb
from lmms_eval_grpc.v1 import catalog_pb2, job_pb2
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from tests.server.conftest import Guarded, NewGuarded, NewRig, detail, failure


async def submit(guarded: Guarded, name: str, **fields: Any) -> job_pb2.Job:
    request = pb.EvaluateRequest(spec=guarded.rig.spec(), **fields)
    response: pb.EvaluateResponse = await guarded.stub.Evaluate(request, metadata=guarded.as_(name))
    return response.job


async def cancel(guarded: Guarded, name: str, job_id: str) -> job_pb2.Job:
    response: pb.CancelJobResponse = await guarded.stub.CancelJob(
        pb.CancelJobRequest(job_id=job_id), metadata=guarded.as_(name)
    )
    return response.job


async def listed(guarded: Guarded, **fields: Any) -> list[str]:
    response = await guarded.stub.ListJobs(pb.ListJobsRequest(**fields), metadata=guarded.as_("rita"))
    return [job.job_id for job in response.jobs]


async def test_a_job_is_its_submitters_and_all_who_may_read_see_whose_it_is(guarded: Guarded) -> None:
    first = await submit(guarded, "alice")
    second = await submit(guarded, "bob")
    third = await submit(guarded, "alice")
    assert [first.owner, second.owner, third.owner] == ["alice", "bob", "alice"]
    seen = await guarded.stub.GetJob(pb.GetJobRequest(job_id=second.job_id), metadata=guarded.as_("rita"))
    assert seen.job.owner == "bob"
    assert await listed(guarded) == [third.job_id, second.job_id, first.job_id]
    assert await listed(guarded, owner="alice") == [third.job_id, first.job_id]
    assert await listed(guarded, owner="nobody") == []
    page = await guarded.stub.ListJobs(pb.ListJobsRequest(owner="alice", page_size=1), metadata=guarded.as_("rita"))
    assert [job.job_id for job in page.jobs] == [third.job_id]
    assert await listed(guarded, owner="alice", page_size=1, page_token=page.next_page_token) == [first.job_id]
    mixed = guarded.stub.ListJobs(
        pb.ListJobsRequest(owner="bob", page_token=page.next_page_token), metadata=guarded.as_("rita")
    )
    assert (await failure(mixed)).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_only_the_owner_and_administrators_cancel_a_job(guarded: Guarded) -> None:
    jobs = [await submit(guarded, "alice") for _ in range(3)]
    error = await failure(cancel(guarded, "bob", jobs[1].job_id))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.details() == (
        f"job {jobs[1].job_id} is alice's, and bob has the role submit: only its owner and those with the role admin"
        " may cancel it"
    )
    assert dict(detail(error, "ErrorInfo").metadata) == {"permission": "owner"}
    assert (await cancel(guarded, "alice", jobs[1].job_id)).state == job_pb2.JOB_STATE_CANCELLED
    assert (await cancel(guarded, "root", jobs[2].job_id)).state == job_pb2.JOB_STATE_CANCELLED


async def test_whether_a_job_exists_is_told_to_those_who_may_see_it(guarded: Guarded) -> None:
    job = await submit(guarded, "alice")
    for job_id in (job.job_id, "nothing"):
        error = await failure(cancel(guarded, "rita", job_id))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert error.details() == "CancelJob needs the role submit, and rita has the role read"
        moved = guarded.admin.SetJobPriority(
            admin_pb.SetJobPriorityRequest(job_id=job_id, priority=1), metadata=guarded.as_("alice")
        )
        assert (await failure(moved)).code() is grpc.StatusCode.PERMISSION_DENIED
    for name in ("alice", "root"):
        assert (await failure(cancel(guarded, name, "nothing"))).code() is grpc.StatusCode.NOT_FOUND


async def test_a_request_id_is_good_for_the_one_who_used_it(guarded: Guarded) -> None:
    key = str(uuid.uuid4())
    job = await submit(guarded, "alice", request_id=key)
    assert (await submit(guarded, "alice", request_id=key)).job_id == job.job_id
    for name in ("bob", "root"):
        error = await failure(submit(guarded, name, request_id=key))
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        assert detail(error, "ErrorInfo").reason == "REQUEST_ID_CONFLICT"
    for request_id in (key, str(uuid.uuid4())):
        error = await failure(submit(guarded, "rita", request_id=request_id))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert key not in str(error)
    # Also where the checkpoint is gone by now, and while new jobs are refused.
    (guarded.rig.checkpoint / "config.json").unlink()
    guarded.rig.checkpoint.rmdir()
    assert (await submit(guarded, "alice", request_id=key)).job_id == job.job_id
    assert (await failure(submit(guarded, "bob", request_id=key))).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(await listed(guarded)) == 1


async def test_of_one_request_that_two_make_at_once_one_gets_the_job(guarded: Guarded) -> None:
    key = str(uuid.uuid4())
    made = await asyncio.gather(
        *(submit(guarded, name, request_id=key) for name in ("alice", "bob") for _ in range(4)), return_exceptions=True
    )
    jobs = [job for job in made if isinstance(job, job_pb2.Job)]
    errors = [error for error in made if isinstance(error, grpc.aio.AioRpcError)]
    assert (len(jobs), len({job.job_id for job in jobs}), len({job.owner for job in jobs})) == (4, 1, 1)
    assert {error.code() for error in errors} == {grpc.StatusCode.ALREADY_EXISTS}


async def test_jobs_of_a_server_that_asked_nobody_are_administrators_to_cancel(
    new_rig: NewRig, new_guarded: NewGuarded
) -> None:
    open_to_all = await new_rig()
    before = await open_to_all.submit()
    assert before.owner == "anonymous"
    await open_to_all.server.stop(0)
    guarded = await new_guarded()
    assert (await failure(cancel(guarded, "alice", before.job_id))).code() is grpc.StatusCode.PERMISSION_DENIED
    assert (await cancel(guarded, "root", before.job_id)).state in (
        job_pb2.JOB_STATE_CANCELLING,
        job_pb2.JOB_STATE_CANCELLED,
    )


@pytest.mark.parametrize("most", [10, 0])
async def test_how_far_forward_a_submitter_may_put_a_job_is_a_setting(new_guarded: NewGuarded, most: int) -> None:
    guarded = await new_guarded(max_submit_priority=most)
    assert (await submit(guarded, "alice", priority=most)).priority == most
    assert (await submit(guarded, "alice", priority=-5)).priority == -5
    error = await failure(submit(guarded, "alice", priority=most + 1))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.details() == (
        f"priority {most + 1} needs the role admin, and alice has the role submit, which goes up to {most}"
    )
    merge = guarded.stub.MergeCheckpoint(pb.MergeCheckpointRequest(priority=most + 1), metadata=guarded.as_("alice"))
    assert (await failure(merge)).code() is grpc.StatusCode.PERMISSION_DENIED
    assert (await submit(guarded, "root", priority=500)).priority == 500


async def test_a_caller_is_told_who_the_server_takes_it_for(guarded: Guarded, new_rig: NewRig, tmp_path: Any) -> None:
    address = guarded.rig.server.address
    roles = {"rita": catalog_pb2.ROLE_READ, "alice": catalog_pb2.ROLE_SUBMIT, "root": catalog_pb2.ROLE_ADMIN}
    for name, role in roles.items():
        async with AsyncEvalClient(address, token=guarded.tokens[name]) as client:
            assert await client.whoami() == catalog_pb2.Principal(name=name, role=role)
            assert list((await client.server_info()).authentication) == ["token"]
    rig = await new_rig(state_dir=tmp_path / "other")
    async with AsyncEvalClient(rig.server.address) as client:
        assert await client.whoami() == catalog_pb2.Principal(name="anonymous", role=catalog_pb2.ROLE_ADMIN)
        assert list((await client.server_info()).authentication) == []

"""Pages, filters and tokens of the listings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.jobs.events import Completed
from lmms_eval_grpc.v1 import catalog_pb2, job_pb2
from lmms_eval_grpc.v1 import evaluation_service_pb2 as pb
from tests.jobs.examples import result, task_result
from tests.server.conftest import NewRig, Rig, failure, violations


async def pages(rig: Rig, **fields: Any) -> AsyncIterator[pb.ListJobsResponse]:
    token = ""
    while True:
        page = await rig.stub.ListJobs(pb.ListJobsRequest(page_token=token, **fields))
        yield page
        token = page.next_page_token
        if not token:
            return


async def test_jobs_are_listed_newest_first_page_by_page(rig: Rig) -> None:
    submitted = [(await rig.submit()).job_id for _ in range(7)]
    shown = [page async for page in pages(rig, page_size=3)]
    assert [len(page.jobs) for page in shown] == [3, 3, 1]
    assert [job.job_id for page in shown for job in page.jobs] == submitted[::-1]
    (everything,) = [page async for page in pages(rig)]
    assert [job.job_id for job in everything.jobs] == submitted[::-1]
    assert everything.jobs[0].queue_position == 5


async def test_a_full_last_page_has_no_successor(rig: Rig) -> None:
    for _ in range(4):
        await rig.submit()
    assert [len(page.jobs) async for page in pages(rig, page_size=2)] == [2, 2]


async def test_jobs_submitted_between_pages_do_not_shift_them(rig: Rig) -> None:
    submitted = [(await rig.submit()).job_id for _ in range(4)]
    first = await rig.stub.ListJobs(pb.ListJobsRequest(page_size=2))
    await rig.submit()
    second = await rig.stub.ListJobs(pb.ListJobsRequest(page_size=2, page_token=first.next_page_token))
    assert [job.job_id for job in (*first.jobs, *second.jobs)] == submitted[::-1]


async def test_jobs_are_chosen_by_state_and_label(rig: Rig) -> None:
    running, _ = await rig.running(labels={"run": "a", "step": "1"})
    queued = (await rig.submit(labels={"run": "a", "step": "2"})).job_id
    other = (await rig.submit(labels={"run": "b"})).job_id

    async def chosen(**fields: Any) -> list[str]:
        return [job.job_id for job in (await rig.stub.ListJobs(pb.ListJobsRequest(**fields))).jobs]

    assert await chosen(labels={"run": "a"}) == [queued, running]
    assert await chosen(states=[job_pb2.JOB_STATE_QUEUED]) == [other, queued]
    assert await chosen(states=[job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING]) == [other, queued, running]
    assert await chosen(states=[job_pb2.JOB_STATE_RUNNING], labels={"run": "b"}) == []


async def test_results_are_listed_only_when_asked_for(rig: Rig) -> None:
    job_id, execution = await rig.running()
    execution.tell(task_result())
    execution.complete()
    await rig.ended(job_id)
    (basic,) = (await rig.stub.ListJobs(pb.ListJobsRequest())).jobs
    assert not basic.task_results
    assert basic.WhichOneof("result") is None
    (full,) = (await rig.stub.ListJobs(pb.ListJobsRequest(view=job_pb2.JOB_VIEW_FULL))).jobs
    assert full == await rig.get(job_id)


async def test_a_page_of_large_jobs_is_shorter_but_loses_none(rig: Rig) -> None:
    submitted = []
    for _ in range(5):
        job_id, execution = await rig.running()
        execution.tell(Completed(dataclasses.replace(result(), results_json='"' + "x" * 1_500_000 + '"')))
        await rig.ended(job_id)
        submitted.append(job_id)
    shown = [page async for page in pages(rig, view=job_pb2.JOB_VIEW_FULL)]
    assert all(page.ByteSize() < 4 * 1024 * 1024 for page in shown)
    assert [len(page.jobs) for page in shown] == [2, 2, 1]
    assert [job.job_id for page in shown for job in page.jobs] == submitted[::-1]
    assert all(job.evaluation_result.results_json for page in shown for job in page.jobs)


async def test_more_full_jobs_than_are_read_at_once_fill_one_page(rig: Rig) -> None:
    submitted = [(await rig.submit()).job_id for _ in range(25)]
    shown = [page async for page in pages(rig, view=job_pb2.JOB_VIEW_FULL, page_size=22)]
    assert [len(page.jobs) for page in shown] == [22, 3]
    assert [job.job_id for page in shown for job in page.jobs] == submitted[::-1]


async def test_a_token_belongs_to_its_listing(rig: Rig) -> None:
    for _ in range(3):
        await rig.submit(labels={"run": "a"})
    token = (await rig.stub.ListJobs(pb.ListJobsRequest(page_size=1, labels={"run": "a"}))).next_page_token
    model_token = (await rig.stub.ListModels(pb.ListModelsRequest(page_size=1))).next_page_token
    for request in (
        pb.ListJobsRequest(page_token=token),
        pb.ListJobsRequest(page_token=token, labels={"run": "a"}, states=[job_pb2.JOB_STATE_QUEUED]),
        pb.ListJobsRequest(page_token=model_token),
        pb.ListJobsRequest(page_token=token[:-4] + "AAAA", labels={"run": "a"}),
        pb.ListJobsRequest(page_token="nonsense"),
        pb.ListJobsRequest(page_token="ünicode"),
    ):
        assert set(violations(await failure(rig.stub.ListJobs(request)))) == {"page_token"}
    assert set(violations(await failure(rig.stub.ListTasks(pb.ListTasksRequest(page_token=token))))) == {"page_token"}
    assert set(violations(await failure(rig.stub.ListModels(pb.ListModelsRequest(page_token=token))))) == {"page_token"}


async def test_a_negative_page_size_and_an_unknown_state_are_refused(rig: Rig) -> None:
    error = await failure(rig.stub.ListJobs(pb.ListJobsRequest(page_size=-1)))
    assert set(violations(error)) == {"page_size"}
    unknown = pb.ListJobsRequest(states=[job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_UNSPECIFIED])
    assert set(violations(await failure(rig.stub.ListJobs(unknown)))) == {"states[1]"}


@pytest.fixture
async def tasks(new_rig: NewRig, tmp_path: Path) -> Rig:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("alpha", "beta", "gamma_one", "gamma_two"):
        (folder / f"{name}.yaml").write_text(f"task: {name}\noutput_type: generate_until\ntag: greek\n")
    (folder / "group.yaml").write_text("group: gammas\ntask: [gamma_one, gamma_two]\n")
    return await new_rig(include_path=(folder,))


async def task_names(rig: Rig, **fields: Any) -> list[str]:
    response = await rig.stub.ListTasks(pb.ListTasksRequest(**fields))
    return [task.name for task in response.tasks]


async def test_tasks_groups_and_tags_are_listed_with_what_they_stand_for(tasks: Rig) -> None:
    listed = (await tasks.stub.ListTasks(pb.ListTasksRequest())).tasks
    by_name = {task.name: task for task in listed}
    assert [task.name for task in listed] == sorted(by_name)
    assert by_name["gammas"].kind == catalog_pb2.TASK_KIND_GROUP
    assert by_name["gammas"].members == ["gamma_one", "gamma_two"]
    assert by_name["greek"].kind == catalog_pb2.TASK_KIND_TAG
    assert set(by_name["greek"].members) == {"alpha", "beta", "gamma_one", "gamma_two"}
    assert by_name["alpha"].kind == catalog_pb2.TASK_KIND_TASK
    assert by_name["alpha"].output_type == "generate_until"
    assert by_name["alpha"].tags == ["greek"]
    assert by_name["alpha"].source.endswith("alpha.yaml")


@pytest.fixture
def oddly_named(tmp_path: Path) -> Path:
    for name in (b"alpha.yaml", b"z\xff.yaml"):
        file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        file.write_text(f"task: {name[:1].decode()}\noutput_type: generate_until\n")
    return tmp_path


async def test_a_file_whose_name_is_no_text_spoils_no_list(new_rig: NewRig, oddly_named: Path) -> None:
    rig = await new_rig(include_path=(oddly_named,))
    listed = {task.name: task.source for task in (await rig.stub.ListTasks(pb.ListTasksRequest())).tasks}
    assert listed["z"].endswith("/z?.yaml")
    assert listed["a"].endswith("/alpha.yaml")


async def test_tasks_are_chosen_by_prefix_glob_and_kind(tasks: Rig) -> None:
    assert await task_names(tasks, filter="gamma") == ["gamma_one", "gamma_two", "gammas"]
    assert await task_names(tasks, filter="*_t?o") == ["gamma_two"]
    assert await task_names(tasks, filter="g", kinds=[catalog_pb2.TASK_KIND_TAG, catalog_pb2.TASK_KIND_GROUP]) == [
        "gammas",
        "greek",
    ]
    assert await task_names(tasks, filter="zeta") == []


async def test_tasks_are_listed_page_by_page(tasks: Rig) -> None:
    shown: list[str] = []
    token = ""
    while True:
        page = await tasks.stub.ListTasks(pb.ListTasksRequest(page_size=2, page_token=token, filter="*a*"))
        assert len(page.tasks) <= 2
        shown += [task.name for task in page.tasks]
        token = page.next_page_token
        if not token:
            break
    assert shown == await task_names(tasks, filter="*a*")
    assert len(shown) > 4


async def test_models_are_listed_page_by_page(rig: Rig) -> None:
    everything = (await rig.stub.ListModels(pb.ListModelsRequest())).models
    first = await rig.stub.ListModels(pb.ListModelsRequest(page_size=3))
    rest = await rig.stub.ListModels(pb.ListModelsRequest(page_token=first.next_page_token))
    assert [*first.models, *rest.models] == list(everything)
    assert not rest.next_page_token

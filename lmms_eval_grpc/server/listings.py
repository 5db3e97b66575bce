"""ListJobs, ListTasks and ListModels."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import fnmatch
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lmms_eval_grpc.engine.tasks.index import TaskEntry
from lmms_eval_grpc.jobs.errors import InvalidRequest, JobUnreadable, Violation
from lmms_eval_grpc.server.convert_catalog import read_job_filter, task_kind, write_model, write_task
from lmms_eval_grpc.server.convert_job import shows_results, write_job
from lmms_eval_grpc.server.paging import fill, make_token, page_size, read_token
from lmms_eval_grpc.v1.evaluation_service_pb2 import ListJobsResponse, ListModelsResponse, ListTasksResponse

if TYPE_CHECKING:
    from lmms_eval_grpc.engine.tasks.index import TaskIndex
    from lmms_eval_grpc.jobs.job import Job as StoredJob
    from lmms_eval_grpc.scheduler.scheduler import Scheduler
    from lmms_eval_grpc.server.catalog import AvailableModel, TaskCatalog
    from lmms_eval_grpc.store.base import JobStore
    from lmms_eval_grpc.v1.catalog_pb2 import TaskInfo
    from lmms_eval_grpc.v1.evaluation_service_pb2 import ListJobsRequest, ListModelsRequest, ListTasksRequest
    from lmms_eval_grpc.v1.job_pb2 import Job

_FULL_JOBS_AT_ONCE = 10
"""Jobs with results that are read together: each may bring megabytes."""


async def list_jobs(request: ListJobsRequest, store: JobStore, scheduler: Scheduler) -> ListJobsResponse:
    """One page of jobs, newest first, shorter than asked for when the response would grow too large."""
    violations: list[Violation] = []
    chosen = read_job_filter(request.states, request.labels, request.owner, violations)
    if violations:
        raise InvalidRequest(violations)
    selection = ("jobs", sorted(chosen.states), sorted(chosen.labels.items()), chosen.owner)
    before = read_token(request.page_token, selection, int)
    most = page_size(request.page_size, default=50, most=500)
    full = shows_results(request.view, default=False)
    jobs: list[Job] = []
    order = before if isinstance(before, int) else None
    while True:
        wanted = most - len(jobs)
        asked = min(wanted, _FULL_JOBS_AT_ONCE) if full else wanted
        # One more than is shown tells whether there is a next page.
        found = await store.page(chosen, before_order=order, size=asked + 1, full=full)
        written = list(_write_all(found[:asked], full, scheduler))
        page = fill([*jobs, *(message for _, message in written)], most)
        kept = len(page) - len(jobs)
        jobs = page
        taken = written[kept][0] if kept < len(written) else len(found[:asked])
        order = found[taken - 1].order if taken else order
        if taken == len(found):
            return ListJobsResponse(jobs=jobs)
        if kept < len(written) or len(jobs) == most:
            return ListJobsResponse(jobs=jobs, next_page_token=make_token(order or 0, selection))


def _write_all(found: Sequence[StoredJob], full: bool, scheduler: Scheduler) -> Iterator[tuple[int, Job]]:
    """The jobs as messages, each with its place in ``found``; without those that make none."""
    for place, job in enumerate(found):
        with contextlib.suppress(JobUnreadable):
            yield place, write_job(job, full=full, queue_position=scheduler.position(job.job_id))


async def list_tasks(request: ListTasksRequest, catalog: TaskCatalog) -> ListTasksResponse:
    """One page of the names that a specification's tasks may hold, sorted."""
    return await asyncio.to_thread(_list_tasks, request, catalog)


def _list_tasks(request: ListTasksRequest, catalog: TaskCatalog) -> ListTasksResponse:
    selection = ("tasks", request.filter, sorted(request.kinds))
    after = read_token(request.page_token, selection, str)
    most = page_size(request.page_size, default=1000, most=5000)
    wanted = [written for entry, written in _written_tasks(catalog.index()) if is_wanted(entry, request)]
    start = bisect.bisect_right(wanted, str(after), key=lambda task: task.name) if after is not None else 0
    tasks = fill(wanted[start:], most)
    more = start + len(tasks) < len(wanted)
    return ListTasksResponse(tasks=tasks, next_page_token=make_token(tasks[-1].name, selection) if more else "")


@functools.lru_cache(maxsize=1)
def _written_tasks(index: TaskIndex) -> tuple[tuple[TaskEntry, TaskInfo], ...]:
    """An index's entries and what is told of them, which changes only with the index."""
    return tuple((entry, write_task(entry)) for entry in index.entries())


def is_wanted(entry: TaskEntry, request: ListTasksRequest) -> bool:
    """Whether the request's kinds and filter, a prefix or a pattern, let the entry through."""
    if request.kinds and task_kind(entry) not in request.kinds:
        return False
    if any(sign in request.filter for sign in "*?["):
        return fnmatch.fnmatchcase(entry.name, request.filter)
    return entry.name.startswith(request.filter)


def list_models(request: ListModelsRequest, models: Sequence[AvailableModel]) -> ListModelsResponse:
    """One page of ``models`` which are sorted by name."""
    after = read_token(request.page_token, "models", str)
    most = page_size(request.page_size, default=200, most=1000)
    start = bisect.bisect_right(models, str(after), key=lambda model: model[0].name) if after is not None else 0
    shown = fill((write_model(entry, missing) for entry, missing in models[start:]), most)
    more = start + len(shown) < len(models)
    return ListModelsResponse(models=shown, next_page_token=make_token(shown[-1].name, "models") if more else "")

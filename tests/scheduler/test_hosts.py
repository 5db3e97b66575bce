"""Devices on several machines, which come and go: who gets which, and what becomes of a job whose machine is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lmms_eval_grpc.executors.base import Device
from lmms_eval_grpc.jobs.events import HostLost, StateChange
from lmms_eval_grpc.jobs.results import JobErrorCode
from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler.slots import SlotTable, assign, unfit, usable_devices
from tests.jobs.examples import spec
from tests.scheduler.conftest import NewService, Service
from tests.scheduler.doubles import until
from tests.scheduler.test_slots import wants

LOST = HostLost("node a is gone")
HOSTS = tuple(Device(f"{host}/cuda:{index}", host=host) for host in ("a", "b", "c") for index in range(2))


def plan(*waiting: object, free: set[int]) -> dict[int, tuple[int, ...]]:
    chosen = assign(waiting, HOSTS, frozenset(free))  # type: ignore[arg-type]
    return {assignment.job.order: assignment.indices for assignment in chosen}


def test_the_devices_of_a_job_are_on_one_host() -> None:
    assert plan(wants(1, 2), free={1, 2, 4, 5}) == {1: (4, 5)}
    assert plan(wants(1, 2), free={1, 2, 4}) == {}


def test_a_narrow_job_goes_where_it_breaks_up_least() -> None:
    assert plan(wants(1), wants(2, 2), free={0, 1, 3}) == {1: (3,), 2: (0, 1)}


def test_a_wide_job_that_waits_keeps_one_host_and_not_all() -> None:
    assert plan(wants(1, 2), wants(2), wants(3), free={1, 2, 4}) == {2: (2,), 3: (4,)}


def test_a_host_is_a_name_for_its_devices() -> None:
    assert usable_devices(spec(device="b"), HOSTS) == (2, 3)
    assert usable_devices(spec(device="b/cuda:1"), HOSTS) == (3,)
    assert usable_devices(spec(device="cuda"), HOSTS) == (0, 1, 2, 3, 4, 5)


def test_a_job_that_is_wider_than_any_host_is_refused() -> None:
    violation = unfit(spec(num_gpus=3), HOSTS)
    assert violation is not None
    assert "this server has 2 on one host" in violation.description


def test_where_devices_may_come_nothing_is_refused_for_want_of_any() -> None:
    assert unfit(spec(num_gpus=3), (), elastic=True) is None
    assert unfit(spec(num_gpus=3), HOSTS, elastic=True) is not None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_a_stream_of_narrow_jobs_does_not_starve_a_wide_one(ends: list[int]) -> None:
    """Narrow jobs hold everything, a wide one waits before as many narrow ones as one likes. Whichever of them end, the
    host that is kept for the wide one never has fewer free devices than before, until it has both."""
    table, order, kept = SlotTable(HOSTS), 1, 0
    for index in range(len(HOSTS)):
        table.take(f"on {index}", (index,))
    for end in ends:
        table.release(f"on {end}")
        waiting = [wants(0, 2), *(wants(order + more) for more in range(6))]
        chosen = list(assign(waiting, HOSTS, table.free))
        most = max(len(table.free & {2 * host, 2 * host + 1}) for host in range(3))
        if most == 2:
            assert chosen[0].job.order == 0
            return
        for each in chosen:
            table.take(f"on {each.indices[0]}", each.indices)
        now = max(len(table.free & {2 * host, 2 * host + 1}) for host in range(3))
        assert now == most >= kept
        kept, order = now, order + 6


def test_a_device_that_is_gone_stays_until_its_job_lets_go() -> None:
    table = SlotTable(HOSTS[:4])
    table.take("job", (0, 2))
    table.replace(HOSTS[2:])
    assert [(slot.device.name, slot.job_id) for slot in table.view()] == [
        ("b/cuda:0", "job"),
        ("b/cuda:1", None),
        ("c/cuda:0", None),
        ("c/cuda:1", None),
        ("a/cuda:0", "job"),
    ]
    table.release("job")
    assert table.devices == HOSTS[2:]
    assert table.free == {0, 1, 2, 3}


def test_a_device_that_comes_back_meanwhile_is_still_held() -> None:
    table = SlotTable(HOSTS)
    table.take("job", (0,))
    table.replace(HOSTS[2:])
    table.replace(HOSTS)
    assert table.view()[0].job_id == "job"
    assert table.free == {1, 2, 3, 4, 5}
    table.release("job")
    assert table.devices == HOSTS
    assert table.free == {0, 1, 2, 3, 4, 5}


def test_devices_of_one_name_are_told_apart_by_their_number() -> None:
    cpus = (Device("cpu"), Device("cpu"), Device("cpu"))
    table = SlotTable(cpus)
    table.take("one", (0,))
    table.take("two", (2,))
    table.replace(cpus[:2])
    assert sorted(slot.job_id or "" for slot in table.view()) == ["one", "two"]
    table.release("one")
    table.release("two")
    assert len(table.devices) == 2


async def test_a_job_whose_host_is_lost_waits_again_and_says_why(service: Service) -> None:
    job = await service.submit()
    (await service.executor.execution(job.job_id)).tell(LOST)
    (await service.executor.execution(job.job_id, attempt=2)).complete()
    await service.reaches(job.job_id, JobState.COMPLETED)
    changes = [event.body for event in (await service.journal.log(job.job_id)).after(0)]
    assert isinstance(changes[2], StateChange)
    assert (changes[2].state, changes[2].reason) == (JobState.QUEUED, "host lost: node a is gone")


async def test_a_job_that_loses_every_host_fails_and_the_queue_goes_on(new_service: NewService) -> None:
    service = await new_service(max_attempts=3)
    job, other = await service.submit(), await service.submit()
    for attempt in (1, 2, 3):
        (await service.executor.execution(job.job_id, attempt)).tell(LOST)
    failed = await service.reaches(job.job_id, JobState.FAILED)
    assert failed.error is not None
    assert (failed.error.code, failed.error.reason) == (JobErrorCode.INTERNAL, "TOO_MANY_ATTEMPTS")
    assert "node a is gone" in failed.error.message
    (await service.executor.execution(other.job_id)).complete()
    await service.reaches(other.job_id, JobState.COMPLETED)


async def test_a_job_that_is_cancelled_is_not_tried_again_when_its_host_is_lost(service: Service) -> None:
    service.executor.obedient = False
    job = await service.submit()
    execution = await service.executor.execution(job.job_id)
    await service.scheduler.cancel(job.job_id, "no more")
    execution.tell(LOST)
    assert (await service.reaches(job.job_id, JobState.CANCELLED)).cancel_reason == "no more"


async def test_jobs_start_on_devices_that_come_and_not_on_those_that_went(new_service: NewService) -> None:
    service = await new_service("a/cuda:0")
    service.executor.elastic = True
    first, second = await service.submit(), await service.submit()
    execution = await service.executor.execution(first.job_id)
    service.executor.change_devices("b/cuda:0")
    assert (await service.executor.execution(second.job_id)).devices == ("b/cuda:0",)
    execution.tell(LOST)
    await until(lambda: service.scheduler.queue().queued == (first.job_id,))
    await until(lambda: [slot.device.name for slot in service.scheduler.queue().slots] == ["b/cuda:0"])
    (await service.executor.execution(second.job_id)).complete()
    assert (await service.executor.execution(first.job_id, attempt=2)).devices == ("b/cuda:0",)


async def test_a_job_that_fits_no_device_now_waits_for_one_where_they_come_and_go(new_service: NewService) -> None:
    service = await new_service("a/cuda:0", "a/cuda:1")
    service.executor.elastic = True
    job = await service.submit(num_gpus=2)
    (await service.executor.execution(job.job_id)).complete()
    waiting = await service.submit(num_gpus=2)
    await service.stop()

    def lose_a_device(life: Service) -> None:
        life.executor.elastic = True
        life.executor.change_devices("a/cuda:0")

    service = await new_service(prepare=lose_a_device)
    assert (await service.journal.job(waiting.job_id)).state is JobState.QUEUED
    service.executor.change_devices("a/cuda:0", "a/cuda:1")
    await service.executor.execution(waiting.job_id, attempt=(await service.journal.job(waiting.job_id)).attempt + 1)

"""Who gets which devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmms_eval_grpc.executors.base import Device
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.spec import MergeSpec
from lmms_eval_grpc.scheduler.queue import JobQueue
from lmms_eval_grpc.scheduler.slots import SlotTable, assign, unfit, usable_devices
from tests.jobs.examples import spec, submitted

GPUS = tuple(Device(f"cuda:{index}") for index in range(4))
CPU = (Device("cpu"),)


def wants(order: int, num_gpus: int = 1, device: str = "") -> Job:
    return submitted(order, spec=spec(num_gpus=num_gpus, device=device))


def plan(*waiting: Job, free: set[int] | None = None) -> dict[int, tuple[int, ...]]:
    everything = frozenset(range(len(GPUS)))
    chosen = assign(waiting, GPUS, everything if free is None else frozenset(free))
    return {assignment.job.order: assignment.indices for assignment in chosen}


def test_jobs_get_the_lowest_free_devices_in_turn() -> None:
    assert plan(wants(1), wants(2, 2), wants(3)) == {1: (0,), 2: (1, 2), 3: (3,)}


def test_no_more_jobs_start_than_there_are_devices() -> None:
    assert plan(*(wants(order) for order in range(1, 9))) == {1: (0,), 2: (1,), 3: (2,), 4: (3,)}


def test_a_wide_job_that_waits_is_not_overtaken_by_narrow_ones() -> None:
    assert plan(wants(1, 4), wants(2), wants(3), free={0, 1, 2}) == {}
    assert plan(wants(1), wants(2, 3), wants(3), free={0, 1, 2}) == {1: (0,)}


def test_a_job_that_waits_for_one_device_leaves_the_others_to_those_behind() -> None:
    assert plan(wants(1, device="cuda:1"), wants(2), wants(3, 2), free={0, 2, 3}) == {2: (0,), 3: (2, 3)}


def test_a_device_that_an_earlier_job_waits_for_is_kept_for_it() -> None:
    assert plan(wants(1, 2, device="cuda"), wants(2, device="cuda:3"), free={3}) == {}


def test_a_job_gets_the_device_that_it_names() -> None:
    assert plan(wants(1, device="cuda:2"), wants(2, device="cuda"), wants(3)) == {1: (2,), 2: (0,), 3: (1,)}


def test_a_merge_takes_any_one_device() -> None:
    assert plan(submitted(1, spec=MergeSpec("checkpoint")), free={2, 3}) == {1: (2,)}


def test_names_stand_for_one_device_or_for_a_kind() -> None:
    devices = (*GPUS, *CPU)
    assert usable_devices(spec(device="cuda:1"), devices) == (1,)
    assert usable_devices(spec(device="cuda"), devices) == (0, 1, 2, 3)
    assert usable_devices(spec(device="cpu"), devices) == (4,)
    assert usable_devices(spec(), devices) == (0, 1, 2, 3, 4)
    assert usable_devices(spec(device="cuda:10"), devices) == ()


@pytest.mark.parametrize(
    ("device", "num_gpus", "field", "words"),
    [
        ("cuda:7", 1, "spec.device", "'cuda:7' is not a device of this server; its devices are: cuda:0, cuda:1"),
        ("cpu", 1, "spec.device", "'cpu' is not a device"),
        ("", 5, "spec.num_gpus", "5 devices asked for, but this server has 4"),
        ("cuda:0", 2, "spec.num_gpus", "2 devices asked for, but 'cuda:0' stands for 1"),
    ],
)
def test_what_can_never_start_is_explained(device: str, num_gpus: int, field: str, words: str) -> None:
    violation = unfit(spec(device=device, num_gpus=num_gpus), GPUS)
    assert violation is not None
    assert violation.field == field
    assert words in violation.description


def test_what_fits_is_not_refused() -> None:
    for device, num_gpus in (("", 4), ("cuda", 4), ("cuda:3", 1)):
        assert unfit(spec(device=device, num_gpus=num_gpus), GPUS) is None
    assert unfit(MergeSpec("checkpoint"), CPU) is None
    assert unfit(MergeSpec("checkpoint"), ()) is not None


def test_a_table_knows_who_holds_what() -> None:
    table = SlotTable(GPUS)
    assert table.take("a", (1, 3)) == (GPUS[1], GPUS[3])
    assert table.free == {0, 2}
    with pytest.raises(ValueError, match="cuda:1 is held by job a"):
        table.take("b", (0, 1))
    assert table.free == {0, 2}
    assert [slot.job_id for slot in table.view()] == [None, "a", None, "a"]
    table.release("a")
    table.release("nobody")
    assert table.free == {0, 1, 2, 3}


jobs = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(["", "cuda", "cuda:0", "cuda:2"])), min_size=1, max_size=12
).map(lambda wishes: [wants(order, 1 if ":" in name else count, name) for order, (count, name) in enumerate(wishes)])


@given(jobs, st.sets(st.integers(0, 3)))
def test_nobody_is_overtaken_on_a_device_that_it_could_use(waiting: list[Job], free: set[int]) -> None:
    chosen = {assignment.job.order: set(assignment.indices) for assignment in assign(waiting, GPUS, frozenset(free))}
    given_out = [index for indices in chosen.values() for index in indices]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) <= free
    for job in waiting:
        usable = set(usable_devices(job.spec, GPUS))
        if job.order in chosen:
            assert chosen[job.order] <= usable
            assert len(chosen[job.order]) == job.slots_needed
        else:
            behind = [chosen[order] for order in chosen if order > job.order]
            assert all(usable.isdisjoint(indices) for indices in behind)


@given(jobs)
def test_every_job_starts_in_the_end(waiting: list[Job]) -> None:
    table = SlotTable(GPUS)
    while waiting:
        started = list(assign(waiting, GPUS, table.free))
        assert started
        assert started[0].job is waiting[0]
        waiting = [job for job in waiting if all(job is not each.job for each in started)]


LISTS = (
    ("cpu",),
    ("cpu", "cpu"),
    ("cuda:0", "cuda:1"),
    ("cuda:0", "cuda:2", "cuda:3"),
    ("cuda:3", "cuda:1", "cpu"),
    ("cuda:0", "cuda:1", "cuda:2", "cuda:3", "cpu", "cpu"),
)
"""Explicit lists of devices, as operators give them."""


@st.composite
def histories(draw: st.DrawFn) -> tuple[tuple[Device, ...], list[tuple[str, Job | int]]]:
    """Devices, and what happens to their queue: jobs that fit come, jobs that run end."""
    devices = tuple(Device(name) for name in draw(st.sampled_from(LISTS)))
    names = ["", *{device.name for device in devices}, *{device.name.partition(":")[0] for device in devices}]
    happenings: list[tuple[str, Job | int]] = []
    for order in range(draw(st.integers(1, 25))):
        name = draw(st.sampled_from(names))
        widest = len(usable_devices(spec(device=name), devices))
        width = draw(st.integers(1, widest))
        wanted = spec(device=name, num_gpus=width)
        happenings.append(("comes", submitted(order, spec=wanted, priority=draw(st.integers(-1, 1)))))
        happenings += [("ends", which) for which in draw(st.lists(st.integers(0, 5), max_size=2))]
    return devices, happenings


class Dispatcher:
    """The queue and the slots, as the scheduler plays them together."""

    def __init__(self, devices: tuple[Device, ...]) -> None:
        self.devices = devices
        self.queue = JobQueue()
        self.table = SlotTable(devices)
        self.running: list[Job] = []

    def start_all(self) -> None:
        while (chosen := next(assign(self.queue, self.devices, self.table.free), None)) is not None:
            job, taken = chosen.job, set(chosen.indices)
            ahead = [one for one in self.queue if one.queue_key < job.queue_key]
            assert all(taken.isdisjoint(usable_devices(one.spec, self.devices)) for one in ahead)
            assert taken <= set(usable_devices(job.spec, self.devices))
            assert len(taken) == job.slots_needed
            self.table.take(job.job_id, chosen.indices)  # raises if another job holds one
            self.queue.discard(job.job_id)
            self.running.append(job)

    def end(self, which: int) -> None:
        if self.running:
            self.table.release(self.running.pop(which % len(self.running)).job_id)


@given(histories())
def test_on_any_devices_jobs_start_in_order_and_the_first_waits_for_no_job_behind_it(
    history: tuple[tuple[Device, ...], list[tuple[str, Job | int]]],
) -> None:
    devices, happenings = history
    dispatcher = Dispatcher(devices)
    ran_before: dict[str, set[str]] = {}  # what ran when a job became the first of the queue
    keys: dict[str, tuple[int, int]] = {}
    for _, subject in happenings:
        if isinstance(subject, Job):
            assert unfit(subject.spec, devices) is None
            dispatcher.queue.add(subject)
            keys[subject.job_id] = subject.queue_key
        else:
            dispatcher.end(subject)
        dispatcher.start_all()
        first = next(iter(dispatcher.queue), None)
        if first is not None:
            before = ran_before.setdefault(first.job_id, {job.job_id for job in dispatcher.running})
            slots = dispatcher.table.view()
            holders = {slots[index].job_id for index in usable_devices(first.spec, devices)} - {None}
            # It waits for those that ran already, and for more urgent ones that came later: for no other.
            assert all(holder in before or keys[str(holder)] < first.queue_key for holder in holders)
    while dispatcher.running:
        dispatcher.end(0)
        dispatcher.start_all()
    assert len(dispatcher.queue) == 0

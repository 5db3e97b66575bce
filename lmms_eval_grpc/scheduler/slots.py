"""Which devices a job can have, and who holds which. Pure data; one job at a time holds a device.

Devices have hosts. A job's are all on one, so a job of several devices fits only where one host has as many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lmms_eval_grpc.executors.base import Device
from lmms_eval_grpc.jobs.errors import Violation
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobSpec


@dataclass(frozen=True, slots=True)
class SlotView:
    """A device and the job that holds it."""

    device: Device
    job_id: str | None


@dataclass(slots=True)
class _Slot:
    device: Device
    holder: str | None = None
    gone: bool = False
    """The device is there no more, but its holder does not know yet."""


class SlotTable:
    """The devices, by index, and their holders."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._slots = [_Slot(device) for device in devices]

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices, in slot order."""
        return tuple(slot.device for slot in self._slots)

    @property
    def free(self) -> frozenset[int]:
        """Indices of the devices that nobody holds."""
        return frozenset(index for index, slot in enumerate(self._slots) if slot.holder is None)

    def take(self, job_id: str, indices: Iterable[int]) -> tuple[Device, ...]:
        """Gives devices to a job. Raises ValueError if one of them is held."""
        chosen = [self._slots[index] for index in sorted(indices)]
        for slot in chosen:
            if slot.holder is not None:
                raise ValueError(f"device {slot.device.name} is held by job {slot.holder}")
        for slot in chosen:
            slot.holder = job_id
        return tuple(slot.device for slot in chosen)

    def release(self, job_id: str) -> None:
        """Takes back all that a job holds."""
        for slot in self._slots:
            if slot.holder == job_id:
                slot.holder = None
        self._slots = [slot for slot in self._slots if slot.holder is not None or not slot.gone]

    def replace(self, devices: Sequence[Device]) -> None:
        """From now on these are the devices. One that a job holds stays until it is released, for the job may run on
        it still; one that comes back under its name meanwhile is held by that job."""
        held = [slot for slot in self._slots if slot.holder is not None]
        slots = []
        for device in devices:
            holder = next((slot for slot in held if slot.device.name == device.name), None)
            if holder is not None:
                held.remove(holder)
            slots.append(_Slot(device, None if holder is None else holder.holder))
        self._slots = [*slots, *(_Slot(slot.device, slot.holder, gone=True) for slot in held)]

    def view(self) -> tuple[SlotView, ...]:
        """Every device with its holder, in slot order."""
        return tuple(SlotView(slot.device, slot.holder) for slot in self._slots)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A job and the indices of the devices that it gets."""

    job: Job
    indices: tuple[int, ...]


def assign(waiting: Iterable[Job], devices: Sequence[Device], free: frozenset[int]) -> Iterator[Assignment]:
    """Which of the waiting jobs (next first) can start now, and on which devices.

    A job that has to wait keeps every device that it could use from all jobs behind it, of several hosts those of the
    one that is closest to having as many free. So a wide job at the head is never starved by narrow ones, and a later
    job overtakes only on devices that no earlier one could have used: a job that waits for ``cuda:1`` does not leave
    ``cuda:0`` idle, nor one that waits for a whole host the other hosts.
    """
    open_indices = set(free)
    for job in waiting:
        if not open_indices:
            break
        hosts = [
            (sorted(open_indices.intersection(usable)), usable)
            for usable in _by_host(usable_devices(job.spec, devices), devices)
            if job.slots_needed <= len(usable)
        ]
        if not hosts:
            continue
        # Where it fits, the host on which it leaves the least over: a wide job may come next.
        fitting = [ready for ready, _ in hosts if job.slots_needed <= len(ready)]
        if fitting:
            indices = tuple(min(fitting, key=len)[: job.slots_needed])
            yield Assignment(job, indices)
            open_indices.difference_update(indices)
        else:
            _, usable = max(hosts, key=lambda host: len(host[0]))
            open_indices.difference_update(usable)


def usable_devices(spec: JobSpec, devices: Sequence[Device]) -> tuple[int, ...]:
    """Indices of the devices that a job may run on: ``cuda:1`` that one, ``cuda`` or ``cpu`` its kind, empty any. Where
    there are several hosts, also the name of one for any device of it."""
    wanted = spec.device if isinstance(spec, EvaluationSpec) else ""
    return tuple(
        index
        for index, device in enumerate(devices)
        if wanted in ("", device.name, device.kind) or wanted == device.host
    )


def _by_host(indices: Sequence[int], devices: Sequence[Device]) -> list[tuple[int, ...]]:
    hosts: dict[str, list[int]] = {}
    for index in indices:
        hosts.setdefault(devices[index].host, []).append(index)
    return [tuple(host) for host in hosts.values()]


def unfit(spec: JobSpec, devices: Sequence[Device], *, elastic: bool = False) -> Violation | None:
    """Why a job could never start on these devices; None when it could, or nobody can tell because there are none now
    and, being ``elastic``, some may come."""
    if elastic and not devices:
        return None
    if not isinstance(spec, EvaluationSpec):
        return None if devices else Violation("spec", "this server has no devices")
    usable = usable_devices(spec, devices)
    if usable and spec.num_gpus == 1:
        return None
    names = ", ".join(device.name for device in devices) or "none"
    if not usable:
        return Violation(
            "spec.device",
            f"{spec.device!r} is not a device of this server; its devices are: {names}; leave it empty for any of them",
        )
    most = max(map(len, _by_host(usable, devices)))
    if spec.num_gpus > most:
        among = f"{spec.device!r} stands for {most}" if spec.device else f"this server has {most}"
        among += " on one host" if most < len(usable) else ""
        return Violation(
            "spec.num_gpus", f"{spec.num_gpus} devices asked for, but {among} (devices: {names}); ask for fewer"
        )
    return None

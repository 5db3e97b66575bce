"""Which devices a job can have, and who holds which. Pure data; one job at a time holds a device."""

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


class SlotTable:
    """The devices, by index, and their holders."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = tuple(devices)
        self._holders: list[str | None] = [None] * len(self._devices)

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices, in slot order."""
        return self._devices

    @property
    def free(self) -> frozenset[int]:
        """Indices of the devices that nobody holds."""
        return frozenset(index for index, holder in enumerate(self._holders) if holder is None)

    def take(self, job_id: str, indices: Iterable[int]) -> tuple[Device, ...]:
        """Gives devices to a job. Raises ValueError if one of them is held."""
        chosen = sorted(indices)
        for index in chosen:
            if (holder := self._holders[index]) is not None:
                raise ValueError(f"device {self._devices[index].name} is held by job {holder}")
        for index in chosen:
            self._holders[index] = job_id
        return tuple(self._devices[index] for index in chosen)

    def release(self, job_id: str) -> None:
        """Takes back all that a job holds."""
        self._holders = [None if holder == job_id else holder for holder in self._holders]

    def view(self) -> tuple[SlotView, ...]:
        """Every device with its holder, in slot order."""
        return tuple(SlotView(device, holder) for device, holder in zip(self._devices, self._holders, strict=True))


@dataclass(frozen=True, slots=True)
class Assignment:
    """A job and the indices of the devices that it gets."""

    job: Job
    indices: tuple[int, ...]


def assign(waiting: Iterable[Job], devices: Sequence[Device], free: frozenset[int]) -> Iterator[Assignment]:
    """Which of the waiting jobs (next first) can start now, and on which devices.

    A job that has to wait keeps every device that it could use from all jobs behind it. So a wide job at the head is
    never starved by narrow ones, and a later job overtakes only on devices that no earlier one could have used: a job
    that waits for ``cuda:1`` does not leave ``cuda:0`` idle.
    """
    open_indices = set(free)
    for job in waiting:
        if not open_indices:
            break
        usable = usable_devices(job.spec, devices)
        ready = sorted(open_indices.intersection(usable))
        if job.slots_needed <= len(ready):
            indices = tuple(ready[: job.slots_needed])
            yield Assignment(job, indices)
            open_indices.difference_update(indices)
        else:
            open_indices.difference_update(usable)


def usable_devices(spec: JobSpec, devices: Sequence[Device]) -> tuple[int, ...]:
    """Indices of the devices that a job may run on: ``cuda:1`` that one, ``cuda`` or ``cpu`` its kind, empty any."""
    wanted = spec.device if isinstance(spec, EvaluationSpec) else ""
    return tuple(
        index for index, device in enumerate(devices) if wanted in ("", device.name, device.name.partition(":")[0])
    )


def unfit(spec: JobSpec, devices: Sequence[Device]) -> Violation | None:
    """Why a job could never start on these devices; None when it could."""
    if not isinstance(spec, EvaluationSpec):
        return None if devices else Violation("spec", "this server has no devices")
    usable = usable_devices(spec, devices)
    names = ", ".join(device.name for device in devices) or "none"
    if not usable:
        return Violation(
            "spec.device",
            f"{spec.device!r} is not a device of this server; its devices are: {names}; leave it empty for any of them",
        )
    if spec.num_gpus > len(usable):
        among = f"{spec.device!r} stands for {len(usable)}" if spec.device else f"this server has {len(usable)}"
        return Violation(
            "spec.num_gpus", f"{spec.num_gpus} devices asked for, but {among} (devices: {names}); ask for fewer"
        )
    return None

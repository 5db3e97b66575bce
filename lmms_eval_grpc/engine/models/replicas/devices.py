"""Which device each replica has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmms_eval_grpc.engine.api import EvaluationError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class ReplicaDevice:
    """A device as a replica sees it, and how the replica is confined to it."""

    name: str
    """A torch device string."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """To be set before the replica touches any device."""


def share_out(device: str, replicas: int, environment: Mapping[str, str]) -> list[ReplicaDevice]:
    """A device for each replica: a GPU that it sees alone, or the CPU, which they share. A lone one sees what
    ``environment`` allows.

    Args:
        device: the evaluation's torch device string, such as ``cuda`` or ``cpu``.
        environment: whose ``CUDA_VISIBLE_DEVICES`` the GPUs are numbered in.

    Raises:
        EvaluationError: ``DEVICE_UNAVAILABLE``, when there are too few to be seen or ``device`` names a single one.
    """
    if replicas == 1:
        # Said again: it may be forked from a process that was there before this worker had its device.
        return [ReplicaDevice(device, {_VISIBLE: environment[_VISIBLE]} if _VISIBLE in environment else {})]
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return [ReplicaDevice("cpu")] * replicas
    if index:
        raise EvaluationError(
            "DEVICE_UNAVAILABLE", f"device {device!r} is one device, but num_gpus is {replicas}; give device {kind!r}"
        )
    if kind != "cuda":
        return [ReplicaDevice(f"{kind}:{number}") for number in range(replicas)]
    visible = environment.get(_VISIBLE)
    entries = list(map(str, range(replicas))) if visible is None else [entry.strip() for entry in visible.split(",")]
    if len(entries) < replicas or not all(entries):
        raise EvaluationError(
            "DEVICE_UNAVAILABLE", f"num_gpus is {replicas}, but {_VISIBLE} is {visible!r}; name as many GPUs in it"
        )
    return [ReplicaDevice("cuda:0", {_VISIBLE: entry}) for entry in entries[:replicas]]

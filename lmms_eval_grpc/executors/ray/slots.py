"""A cluster's nodes as devices with names. Pure data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmms_eval_grpc.executors.base import Device
from lmms_eval_grpc.executors.ray.messages import Node


@dataclass(frozen=True, slots=True)
class RaySlot:
    """A device and the node that it is on."""

    device: Device
    node_id: str
    gpu: bool
    node_slots: int
    """How many slots the node has."""


class Roster:
    """Knows the nodes by names that stay: a node's address, with a number where several nodes share one."""

    def __init__(self, cpu_slots: int | None) -> None:
        """``cpu_slots``: how many jobs a node without GPUs runs. None: one in a cluster that has no GPU at all, and
        none in one that has."""
        self._cpu_slots = cpu_slots
        self._names: dict[str, str] = {}

    def slots(self, nodes: Sequence[Node]) -> tuple[RaySlot, ...]:
        """All slots of these nodes, which are those that are alive."""
        self._name(nodes)
        cpu_slots = self._cpu_slots
        if cpu_slots is None:
            cpu_slots = 0 if any(node.gpus for node in nodes) else 1
        found: list[RaySlot] = []
        for node in sorted(nodes, key=lambda node: self._names[node.node_id]):
            name = self._names[node.node_id]
            count, kind = (node.gpus, "cuda") if node.gpus else (min(cpu_slots, node.cpus), "cpu")
            product, memory = (node.gpu_product, 0) if node.gpus else ("", node.memory_bytes)
            for number in range(count):
                device = Device(f"{name}/{kind}:{number}", product, memory, host=name)
                found.append(RaySlot(device, node.node_id, bool(node.gpus), count))
        return tuple(found)

    def _name(self, nodes: Sequence[Node]) -> None:
        alive = {node.node_id for node in nodes}
        # A machine that comes back is another node to Ray; its jobs shall find it by its old name.
        self._names = {node_id: name for node_id, name in self._names.items() if node_id in alive}
        for node in nodes:
            if node.node_id not in self._names:
                taken, number, name = set(self._names.values()), 2, node.address
                while name in taken:
                    name, number = f"{node.address}-{number}", number + 1
                self._names[node.node_id] = name

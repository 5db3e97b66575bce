"""A real Ray cluster on this machine: a head, and nodes that have addresses of their own and can be killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

_STORE_BYTES = 80 * 1024 * 1024
_ATTEMPTS = 4


class RayCluster:
    """A head without slots, and nodes with one CPU slot each. Ray runs here without its dashboard."""

    def __init__(self, nodes: int) -> None:
        self._cluster: Any = patiently(_start_head)
        self._nodes: dict[str, Any] = {}
        self._last = 1
        for _ in range(nodes):
            self.add_node()

    @property
    def address(self) -> str:
        """What ``ray.init`` takes."""
        return str(self._cluster.address)

    @property
    def names(self) -> set[str]:
        """Addresses of the nodes with slots."""
        return set(self._nodes)

    def add_node(self, gpus: int = 0) -> str:
        """Adds a node, with GPUs that only Ray believes in, and returns its address."""

        def add() -> str:
            self._last += 1
            name = f"127.0.0.{self._last}"
            self._nodes[name] = self._cluster.add_node(
                num_cpus=1, num_gpus=gpus, object_store_memory=_STORE_BYTES, node_ip_address=name
            )
            return name

        return patiently(add)

    def kill_node(self, name: str) -> None:
        """Kills the node's processes without warning, as a power cut would."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs below the nodes: actors, templates, workers."""
        found: list[psutil.Process] = []
        for node in self._nodes.values():
            for info in node.all_processes.get("raylet", ()):
                found += psutil.Process(info.process.pid).children(recursive=True)
        return found

    def shut_down(self) -> None:
        """Ends all of it."""
        self._cluster.shutdown()


def patiently(start: Callable[[], T]) -> T:
    """What ``start`` returns. Ray gives its own processes half a minute to start, which is too little on a busy day."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


def _start_head() -> Any:
    from ray.cluster_utils import Cluster

    return Cluster(
        initialize_head=True,
        head_node_args={
            **{"num_cpus": 0, "num_gpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False},
        },
    )

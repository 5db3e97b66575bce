"""A real Ray cluster on this machine: a head, and nodes that have addresses of their own and can be killed."""

from __future__ import annotations

import os
from typing import Any

import psutil

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

_STORE_BYTES = 80 * 1024 * 1024


class RayCluster:
    """A head without slots, and nodes with one CPU slot each. Ray runs here without its dashboard."""

    def __init__(self, nodes: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                **{"num_cpus": 0, "num_gpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False},
            },
        )
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

    def add_node(self) -> str:
        """Adds a node and returns its address."""
        self._last += 1
        name = f"127.0.0.{self._last}"
        self._nodes[name] = self._cluster.add_node(
            num_cpus=1, num_gpus=0, object_store_memory=_STORE_BYTES, node_ip_address=name
        )
        return name

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

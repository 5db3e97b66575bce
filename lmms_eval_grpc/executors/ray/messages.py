"""What the server and its Ray driver say to each other: pickled dataclasses over a socket that only those two hold."""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.jobs.events import WorkerReport
from lmms_eval_grpc.jobs.job import Job

LEASE_MARGIN = 2.0
"""Seconds after the end of a lease until its worker counts as ended."""

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Connect:
    """The server's first message."""

    address: str
    """As ``ray.init`` takes it; empty starts a cluster on this machine, which ends with the driver."""
    include_paths: tuple[str, ...]
    torch_threads: int | None
    use_template: bool
    cancel_grace: float
    heartbeat_timeout: float | None
    stall_timeout: float | None
    environment: Mapping[str, str]
    """Variables of every worker."""
    lease: float
    """Seconds for which an actor that hears nothing of its driver lets its job run on."""
    idle_timeout: float
    """Seconds for which an actor keeps its devices for a next job."""
    placement_timeout: float
    """Seconds that Ray may take to grant a job its devices."""


@dataclass(frozen=True, slots=True)
class Execute:
    """Run a job."""

    execution: int
    """Number of this attempt, unique for the life of the server."""
    job: Job
    node_id: str
    node_name: str
    devices: tuple[str, ...]
    """Names of the slots that it holds, all on this node."""
    gpus: bool
    """Whether they are GPUs; else CPU slots."""
    node_slots: int
    """How many slots the node has in all."""
    job_dir: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask the worker to stop."""

    execution: int
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """Kill the worker."""

    execution: int


@dataclass(frozen=True, slots=True)
class Clear:
    """Kill the actors that an earlier server has left."""

    actors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Kill all actors and go."""


Command = Connect | Execute | Cancel | End | Clear | Shutdown


@dataclass(frozen=True, slots=True)
class Refused:
    """The driver's last words: there is no cluster."""

    why: str


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, as Ray describes it."""

    node_id: str
    address: str
    gpus: int
    cpus: int
    gpu_product: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes that are alive now. The first of these says that the driver is connected."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Reported:
    """What a worker reports; after its last word nothing more comes of its execution."""

    execution: int
    report: WorkerReport


@dataclass(frozen=True, slots=True)
class Cleared:
    """The actors that were to be cleared are gone, or were not to be got rid of."""


Event = Refused | Nodes | Reported | Cleared


def pack(message: Command | Event) -> bytes:
    """One message as bytes."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


async def read_message(reader: asyncio.StreamReader) -> Any:
    """The next message; None when the other side is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None

"""The actors that run jobs: made for the devices of a job, kept for a while for the next job on the same ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.executors.ray.actor import ActorSettings, JobActor
from lmms_eval_grpc.executors.ray.messages import Connect, Execute

logger = logging.getLogger(__name__)

NAMESPACE = "lmms-eval-grpc"
READY_TIMEOUT = 10.0
"""Seconds that an idle actor may take to answer before another is made in its place."""
CLOSE_TIMEOUT = 15.0
"""Seconds that an actor may take to end what it has started, before Ray ends it."""


@dataclass(eq=False, slots=True)
class Host:
    """An actor and what it holds."""

    name: str
    """In the cluster, so that a later server finds it."""
    actor: Any
    node_id: str
    devices: tuple[str, ...]
    greeted: bool = False
    timer: asyncio.TimerHandle | None = None
    """Runs while it is idle."""


class Hosts:
    """All actors of this driver."""

    def __init__(self, settings: Connect) -> None:
        self._settings = settings
        self._prefix = f"host-{secrets.token_hex(6)}"
        self._numbers = itertools.count(1)
        self._all: set[Host] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def take(self, order: Execute) -> Host:
        """An actor with just these devices: an idle one, or a new one that Ray has not placed yet."""
        for host in [host for host in self._all if host.timer is not None and host.node_id == order.node_id]:
            if host.devices == order.devices and await self._wake(host):
                return host
            if set(host.devices) & set(order.devices):
                await self.end(host)
        return self._make(order)

    def give_back(self, host: Host) -> None:
        """Keeps an actor whose job has ended for the next one, for a while."""
        if self._settings.idle_timeout <= 0 or host not in self._all:
            self._end_later(host)
            return
        host.timer = asyncio.get_running_loop().call_later(self._settings.idle_timeout, self._end_later, host)

    async def end(self, host: Host) -> None:
        """Ends the actor and what it has started; Ray has its devices back then."""
        import ray

        self._all.discard(host)
        if host.timer is not None:
            host.timer.cancel()
            host.timer = None
        if host.greeted:
            with contextlib.suppress(Exception):  # It is dead, or so busy that it is killed all the same.
                await asyncio.wait_for(_future(host.actor.close.remote()), CLOSE_TIMEOUT)
        await asyncio.to_thread(ray.kill, host.actor)

    async def close(self) -> None:
        """Ends all of them."""
        await asyncio.gather(*(self.end(host) for host in list(self._all)), *self._ending, return_exceptions=True)

    async def _wake(self, host: Host) -> bool:
        """Whether an idle actor can have a job; it may have died since it had its last one."""
        if host.timer is not None:
            host.timer.cancel()
            host.timer = None
        try:
            await asyncio.wait_for(_future(host.actor.ready.remote()), READY_TIMEOUT)
        except Exception as error:  # of Ray's many, or the timeout
            logger.warning("actor %s is of no use any more: %s", host.name, type(error).__name__)
            return False
        return True

    def _make(self, order: Execute) -> Host:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        name = f"{self._prefix}-{next(self._numbers)}"
        count = len(order.devices)
        settings = ActorSettings(
            devices=count,
            gpus=order.gpus,
            node_slots=order.node_slots,
            include_paths=self._settings.include_paths,
            torch_threads=self._settings.torch_threads,
            use_template=self._settings.use_template,
            cancel_grace=self._settings.cancel_grace,
            heartbeat_timeout=self._settings.heartbeat_timeout,
            stall_timeout=self._settings.stall_timeout,
            environment=self._settings.environment,
            lease=self._settings.lease,
        )
        actor = (
            ray.remote(JobActor)
            .options(
                name=name,
                namespace=NAMESPACE,
                num_gpus=count if order.gpus else 0,
                num_cpus=0 if order.gpus else count,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(order.node_id, soft=False),
            )
            .remote(settings)
        )
        host = Host(name, actor, order.node_id, order.devices)
        self._all.add(host)
        return host

    def _end_later(self, host: Host) -> None:
        task = asyncio.create_task(self.end(host))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _future(reference: Any) -> Any:
    return await reference

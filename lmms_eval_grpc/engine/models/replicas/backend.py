"""Replicas of one model behind the protocol of a backend."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.device import describe_device
from lmms_eval_grpc.engine.models.protocol import (
    Answer,
    Backend,
    Capabilities,
    GenerationRequest,
    LoglikelihoodRequest,
    Request,
)
from lmms_eval_grpc.engine.models.replicas.courier import Call
from lmms_eval_grpc.engine.models.replicas.devices import share_out
from lmms_eval_grpc.engine.models.replicas.messages import Load, Loaded, Method
from lmms_eval_grpc.engine.models.replicas.nursery import Nursery, standing
from lmms_eval_grpc.engine.models.replicas.replica import CLOSE_GRACE, Replica, ReplicaDied, end_all

logger = logging.getLogger(__name__)

USUAL_PATIENCE = 1800.0
"""Seconds; a batch may take long, and a replica that is ended in vain costs more than one that hangs for a while."""


class ReplicatedBackend:
    """A model that is loaded on several devices, asked as if it were one. Made by :meth:`load`."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        loaded: Loaded,
        nursery: Nursery,
        *,
        owns_nursery: bool,
        seed: int | None,
        patience: float,
    ) -> None:
        self.replicas = replicas
        self._loaded = loaded
        self._nursery = nursery
        self._owns_nursery = owns_nursery
        self._seed = seed
        self._patience = patience
        self._calls = 0

    @classmethod
    def load(
        cls,
        order: Load,
        replicas: int,
        *,
        seed: int | None = None,
        nursery: Nursery | None = None,
        patience: float = USUAL_PATIENCE,
    ) -> ReplicatedBackend:
        """Starts ``replicas`` processes, which load the model at the same time.

        One that cannot is left out, as long as another can. ``order.device`` is the evaluation's device, and
        ``order.threads`` is for all together. ``seed`` is for the torch of each, before every window. One that
        has requests and answers none for ``patience`` seconds, while others answer theirs, is ended and started again.

        Raises:
            EvaluationError: as the registry does, ``DEVICE_UNAVAILABLE`` or ``REPLICAS_DIED``.
        """
        devices = share_out(order.device, replicas, os.environ)
        ours = nursery or standing()
        raised = ours or Nursery.execute()
        threads = max(1, order.threads // replicas)
        made = [
            Replica(number, device, replace(order, device=device.name, threads=threads), raised)
            for number, device in enumerate(devices)
        ]
        try:
            loaded = _load_all(made)
        except BaseException:
            for one in made:
                one.kill()
            end_all(made, 0.0)
            if ours is None:
                raised.close()
            raise
        return cls(made, loaded, raised, owns_nursery=ours is None, seed=seed, patience=patience)

    @property
    def capabilities(self) -> Capabilities:
        return self._loaded.capabilities

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of one replica: answers do not depend on how many there are."""
        return self._loaded.identity

    @property
    def device(self) -> Mapping[str, Any]:
        """What one replica runs on."""
        return self._loaded.device

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        return self._ask("generate", requests)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        return self._ask("loglikelihood", requests)

    def close(self) -> None:
        for one in self.replicas:
            one.ask_to_close()
        end_all(self.replicas, CLOSE_GRACE)
        if self._owns_nursery:
            self._nursery.close()

    def _ask(self, method: Method, requests: Sequence[Request]) -> Iterator[list[Answer]]:
        usable = [one for one in self.replicas if not one.given_up]
        if not usable:
            raise EvaluationError("REPLICAS_DIED", "none of the model's replicas is left")
        self._calls += 1
        seed = None if self._seed is None else f"{self._seed}/{self._calls}"
        call = Call(method, requests, usable, batch_size=usable[0].order.batch_size, seed=seed, patience=self._patience)
        yield from call.batches()


def load_replicas(config: EvaluationConfig, replicas: int) -> ReplicatedBackend:
    """The configuration's model on ``replicas`` devices; torch's threads are shared out among them."""
    import torch  # late: the server names this module's neighbours

    order = Load(
        config.model,
        config.model_args,
        config.device,
        config.batch_size,
        config.max_batch_size,
        config.trust_remote_code,
        config.force_simple,
        torch.get_num_threads(),
    )
    # Half of the time after which the whole evaluation would be taken for hung, should all others have to wait for it.
    patience = USUAL_PATIENCE if config.stall_timeout is None else config.stall_timeout / 2
    return ReplicatedBackend.load(order, replicas, seed=config.seed[2], patience=patience)


def describe_devices(backend: Backend, device: str, num_gpus: int) -> dict[str, Any]:
    """What a loaded backend runs on, for the manifest: one of its devices, how many there are, and how many replicas.

    Replicas that were left out do not count.
    """
    if not isinstance(backend, ReplicatedBackend):
        return describe_device(device) | {"count": num_gpus, "replicas": 1}
    return {**backend.device, "count": num_gpus, "replicas": sum(not one.given_up for one in backend.replicas)}


def _load_all(replicas: Sequence[Replica]) -> Loaded:
    """Has all load at the same time; returns what the first to succeed says. Others are given up."""
    for one in replicas:
        one.start()
    first: Loaded | None = None
    failures: list[EvaluationError] = []
    for one in replicas:
        try:
            loaded = one.wait_until_loaded()
            first = first or loaded
            if loaded.identity != first.identity:
                raise EvaluationError("MODEL_LOAD_FAILED", "the checkpoint changed while the replicas loaded it")
        except (EvaluationError, ReplicaDied) as error:
            how = one.bury()
            one.given_up = True
            if isinstance(error, ReplicaDied):
                error = EvaluationError("REPLICAS_DIED", f"a replica of the model {how} while it loaded:\n{one.tail()}")
            failures.append(error)
            logger.warning("replica %d is left out: %s", one.number, error.message)
    if first is None:
        raise failures[0]
    return first

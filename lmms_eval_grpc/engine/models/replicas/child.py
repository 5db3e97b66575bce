"""What runs in a replica: an ordinary backend, asked one window of requests after the other."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.device import describe_device
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.protocol import Answer, Backend, Request
from lmms_eval_grpc.engine.models.replicas.messages import Answers, Close, Done, Go, Item, Load, Loaded, Refused


@dataclass(frozen=True, slots=True)
class _Window:
    indices: Sequence[int]
    requests: Sequence[Request]
    go: Go


def run(connection: Connection) -> None:
    """Loads the model and answers until the parent says Close; ends the process at once when the parent is gone."""
    order: Load = connection.recv()
    try:
        backend = _load(order)
    except EvaluationError as error:
        connection.send(Refused(error.reason, error.message))
        return
    connection.send(Loaded(backend.capabilities, dict(backend.identity), describe_device(order.device)))
    # While the model works, the next window arrives; the parent sends no third.
    windows: SimpleQueue[_Window | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, windows), name="replica-listener", daemon=True).start()
    while (window := windows.get()) is not None:
        try:
            _answer(backend, window, connection)
        except EvaluationError as error:
            connection.send(Refused(error.reason, error.message))
            return
        connection.send(Done())
        del window  # its images, before the wait for the next one
    backend.close()


def _load(order: Load) -> Backend:
    import torch  # late: a parent that only names this module pays nothing

    torch.set_num_threads(order.threads)
    return registry.create(
        order.model,
        order.model_args,
        device=order.device,
        batch_size=order.batch_size,
        max_batch_size=order.max_batch_size,
        trust_remote_code=order.trust_remote_code,
        force_simple=order.force_simple,
    )


def _answer(backend: Backend, window: _Window, connection: Connection) -> None:
    if window.go.seed is not None:
        import torch

        torch.manual_seed(window.go.seed)
    ask: Callable[[Any], Iterator[list[Answer]]] = getattr(backend, window.go.method)
    for batch in ask(window.requests):
        if batch:
            connection.send(Answers([replace(answer, index=window.indices[answer.index]) for answer in batch]))


def _listen(connection: Connection, windows: SimpleQueue[_Window | None]) -> None:
    indices: list[int] = []
    requests: list[Request] = []
    try:
        while not isinstance(message := connection.recv(), Close):
            if isinstance(message, Item):
                indices.append(message.index)
                requests.append(message.request)
            elif isinstance(message, Go):
                windows.put(_Window(indices, requests, message))
                indices, requests = [], []
            del message
        windows.put(None)
    except (EOFError, OSError):
        os._exit(1)
    except BaseException:  # a request that cannot be unpickled here, say
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)

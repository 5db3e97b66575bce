"""What the parent and a replica say to each other, pickled, over a socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lmms_eval_grpc.engine.models.protocol import Answer, Capabilities, Request

Method = Literal["generate", "loglikelihood"]


@dataclass(frozen=True, slots=True)
class Load:
    """The first message: which model, as the registry takes it."""

    model: str
    model_args: Mapping[str, Any]
    device: str
    batch_size: int | None
    max_batch_size: int | None
    trust_remote_code: bool
    force_simple: bool
    threads: int
    """Threads that torch may use."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The answer to :class:`Load`."""

    capabilities: Capabilities
    identity: Mapping[str, Any]
    device: Mapping[str, Any]
    """What it runs on, for the manifest: the parent does not touch a device, not even to ask."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An :class:`~lmms_eval_grpc.engine.api.EvaluationError` of the backend; the replica's last word."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Item:
    """One request of the window that is being sent, by its position in the caller's sequence."""

    index: int
    request: Request


@dataclass(frozen=True, slots=True)
class Go:
    """The window is complete: ask the model. The next window may follow at once."""

    method: Method
    seed: int | None
    """For torch, before the window; None: none."""


@dataclass(frozen=True, slots=True)
class Answers:
    """One batch, by the caller's positions."""

    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class Done:
    """The oldest window is finished."""


@dataclass(frozen=True, slots=True)
class Close:
    """Free the model and end."""

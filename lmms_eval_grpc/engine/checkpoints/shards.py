"""What a reader of shards offers, whichever format they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from lmms_eval_grpc.engine.api import EvaluationError


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A whole tensor, as the shards together hold it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    container: str = ""
    """The part of its key that names dictionaries around its state dictionary, such as ``app.model``, where the format
    tells."""

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Shards(Protocol):
    """An open sharded checkpoint. What it holds is known; no tensor is in memory."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """By key, in the order in which they were saved."""

    @property
    def others(self) -> Sequence[str]:
        """Keys of what is no tensor."""

    def read(self, key: str) -> torch.Tensor:
        """The whole tensor, on the CPU, contiguous.

        Holds at most the tensor and one shard of it in memory. Raises EvaluationError ``SHARDS_UNREADABLE``.
        """


def unreadable(folder: Path, why: str) -> EvaluationError:
    """The error for shards that cannot be read."""
    return EvaluationError("SHARDS_UNREADABLE", f"the shards in {str(folder)!r} cannot be read: {why}")

"""How many samples fit: an estimate to start from, what batches took, and what an out-of-memory error looks like."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmms_eval_grpc.engine.allocator import give_back_freed
from lmms_eval_grpc.engine.exhaustion import is_out_of_memory

AUTOMATIC_CEILING = 512
"""Largest batch that is chosen without being asked for."""

MODERATE_SIZE = 64
"""Up to here a batch may take as long as it likes: less would leave the device idle between steps."""

BATCH_WORK = {"cpu": 2e12}
"""Floating-point operations that a batch larger than :data:`MODERATE_SIZE` may take: some seconds to half a minute,
so that answers come, and are on disk, in the course of a job."""
ACCELERATOR_BATCH_WORK = 5e15

ESTIMATED_SHARE = 0.5
"""Share of the free memory that an estimate may plan with; the rest is for what it does not know."""
MEASURED_SHARE = 0.8
"""The same, once the model's batches have been measured."""

NOISE_BYTES = 128 * 1024 * 1024
"""Batches that take less than this teach nothing: other threads and first-time allocations take as much."""


def is_device_lost(error: BaseException) -> bool:
    """Whether a CUDA context answers nothing but errors after this one; it survives want of memory."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or "CUDA error" in str(error)


def release_memory(device: torch.device) -> None:
    """Gives what a failed or finished batch left behind back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "cpu":
        give_back_freed()


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on the device, what torch keeps in reserve included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    give_back_freed()  # or it would count as taken
    return free_bytes_of_machine()


def free_bytes_of_machine() -> int:
    """Main memory that can still be had."""
    return _read_kibibytes(Path("/proc/meminfo"), "MemAvailable")


def _read_kibibytes(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{path} has no {name} line")


class PeakMemory:
    """How much more memory than now the device, or for the CPU this process, holds at most until :meth:`read`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        elif device.type == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
            self._before = _read_kibibytes(Path("/proc/self/status"), "VmHWM")
        else:
            raise RuntimeError(f"the memory of {device.type} devices cannot be measured")

    def read(self) -> int:
        """Bytes."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device)) - self._before
        return _read_kibibytes(Path("/proc/self/status"), "VmHWM") - self._before


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Memory that one token of one sample takes: its keys and values in every layer, and one layer's activations."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    cached = 2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * head_size
    active = 8 * text.hidden_size + 3 * getattr(text, "intermediate_size", 4 * text.hidden_size)
    return int(cached + active) * dtype.itemsize


@dataclass(frozen=True, slots=True)
class RowSize:
    """The largest row of a batch."""

    tokens: int
    """Prompt and longest possible answer."""
    input_bytes: int
    """Of its input tensors."""


class BatchSizer:
    """How many requests to put into a batch, learning from every batch and from every out-of-memory error.

    A size that the user fixed is kept until memory runs out. Automatic sizes are powers of two by a budget of tokens:
    first by an estimate of what a token takes, then by the most that a batch was seen to take; after an out-of-memory
    error no batch gets more than half of the failed one's tokens. All this is kept for the backend's lifetime.
    """

    def __init__(self, model: Any, fixed: int | None, ceiling: int | None) -> None:
        self.automatic = fixed is None
        self.limit = fixed if fixed is not None else (ceiling or AUTOMATIC_CEILING)
        """Largest size to try now; only ever shrinks."""
        self._device = model.device
        self._bytes_per_token = bytes_per_token(model.config, model.dtype)
        self._work_per_token = 2 * sum(parameter.numel() for parameter in model.parameters())
        # Measured once, with the model loaded and idle: later, a batch in flight would count as taken.
        self._free = free_bytes(self._device)
        self._budget = ESTIMATED_SHARE * self._free
        """Bytes that a batch may take by :meth:`_estimate`."""
        self._measured: float | None = None
        """The budget by the most that a batch was seen to take; None before one was."""
        self._failed = False
        self._largest = 0
        """By :meth:`_estimate`, of the batches that ran."""

    def size_for(self, row: RowSize) -> int:
        """Samples per batch when the largest is ``row``."""
        if not self.automatic:
            return self.limit
        work = BATCH_WORK.get(self._device.type, ACCELERATOR_BATCH_WORK) / (self._work_per_token * max(1, row.tokens))
        most = min(max(MODERATE_SIZE, int(work)), int(self._budget // self._estimate(row)))
        return self.limit if most >= self.limit else max(1, 1 << max(0, most.bit_length() - 1))

    def allows(self, rows: int, row: RowSize) -> bool:
        """Whether a batch that was put together before memory ran out may still be tried as it is."""
        if rows == 1:
            return True
        return rows <= self.limit and (not self._failed or rows * self._estimate(row) <= self._budget)

    def shrink(self, rows: int, row: RowSize) -> None:
        """Remembers that a batch of ``rows`` like ``row`` was too much."""
        self._failed = True
        if self.automatic:
            self._budget = min(self._budget, rows * self._estimate(row) / 2)
        else:
            self.limit = max(1, min(self.limit, rows // 2))

    @contextmanager
    def watch(self, rows: int, row: RowSize) -> Iterator[None]:
        """Learns from the batch that runs inside, if it succeeds, how much memory its like take."""
        measures = self.automatic and not self._failed
        size = rows * self._estimate(row)
        if measures and self._device.type == "cpu" and size > self._largest:
            # What is kept of smaller ones would hide what this one takes.
            give_back_freed()
        self._largest = max(self._largest, size)
        try:
            peak = PeakMemory(self._device) if measures else None
        except (OSError, RuntimeError):  # a device or a container that does not tell
            peak = None
        yield
        if peak is not None:
            self.learn(rows, row, peak.read())

    def learn(self, rows: int, row: RowSize, taken: int) -> None:
        """A batch of ``rows`` like ``row`` took ``taken`` bytes."""
        if taken >= NOISE_BYTES:
            # What batches that large need for each byte of their estimate decides how much may be estimated.
            need = taken / (rows * self._estimate(row))
            measured = MEASURED_SHARE * self._free / need
            self._budget = self._measured = min(measured, self._measured or measured)

    def _estimate(self, row: RowSize) -> int:
        # A vision tower's activations grow with its input; four times its size is what towers of common VLMs need.
        return max(1, row.tokens * self._bytes_per_token + 4 * row.input_bytes)

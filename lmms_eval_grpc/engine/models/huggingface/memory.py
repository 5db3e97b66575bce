"""How many samples fit: an estimate to start from, and telling an out-of-memory error from any other."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch

AUTOMATIC_CEILING = 64
"""Largest batch that is chosen without being asked for: beyond it throughput hardly grows, and padding does."""

USABLE_SHARE = 0.5
"""Share of the free memory that an estimate may plan with; the rest is for what it does not know."""

_CPU_ALLOCATOR_MESSAGES = ("DefaultCPUAllocator", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _CPU_ALLOCATOR_MESSAGES)


def release_memory(device: torch.device) -> None:
    """Gives what a failed or finished batch left behind back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on the device, what torch keeps in reserve included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable line")


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Memory that one token of one sample takes: its keys and values in every layer, and one layer's activations."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    cached = 2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * head_size
    active = 8 * text.hidden_size + 3 * getattr(text, "intermediate_size", 4 * text.hidden_size)
    return int(cached + active) * dtype.itemsize


class BatchSizer:
    """How many requests to put into a batch, learning from every out-of-memory error.

    A size that the user fixed is kept until memory runs out; automatic sizes are powers of two from the free memory.
    """

    def __init__(self, config: Any, dtype: torch.dtype, device: torch.device, fixed: int | None, ceiling: int | None):
        self.automatic = fixed is None
        self.limit = fixed if fixed is not None else (ceiling or AUTOMATIC_CEILING)
        """Largest size to try now; only ever shrinks."""
        self._bytes_per_token = bytes_per_token(config, dtype)
        # Measured once, with the model loaded and idle: later, a batch in flight would count as taken.
        self._usable = int(USABLE_SHARE * free_bytes(device))

    def size_for(self, tokens: int, input_bytes: int) -> int:
        """Samples per batch when the largest has ``tokens`` (prompt and answer) and inputs of ``input_bytes``."""
        if not self.automatic:
            return self.limit
        # A vision tower's activations grow with its input; four times its size is what towers of common VLMs need.
        per_sample = tokens * self._bytes_per_token + 4 * input_bytes
        fitting = self._usable // max(1, per_sample)
        return max(1, min(self.limit, 1 << max(0, fitting.bit_length() - 1)))

    def shrink(self, failed: int) -> int:
        """Remembers that ``failed`` samples were too many; returns the new limit, half of them."""
        self.limit = max(1, min(self.limit, failed // 2))
        return self.limit

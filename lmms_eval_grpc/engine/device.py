"""What the model runs on, for the manifest, and when it may not."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def describe_device(name: str) -> dict[str, Any]:
    """Type, name and memory of the torch device ``name``; of a CPU, its architecture and torch's threads."""
    import torch  # late: only a process that has loaded a model asks

    device = torch.device(name)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "type": "cuda",
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return {
        "type": device.type,
        "name": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }


def _driver() -> str | None:
    """The NVIDIA driver's version, where its library tells it."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return str(pynvml.nvmlSystemGetDriverVersion())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _processor() -> str | None:
    """The processor's name as Linux has it; kernels choose their instructions, and so the last bits, by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


@contextlib.contextmanager
def forbid_accelerators(why: str) -> Iterator[None]:
    """While this lasts, whatever would have torch take up a GPU raises RuntimeError ``why`` instead."""
    import torch

    original = torch.cuda._lazy_init

    def refuse() -> None:
        raise RuntimeError(why)

    # What every way to a GPU begins with, from Python and from C++.
    torch.cuda._lazy_init = refuse
    try:
        yield
    finally:
        torch.cuda._lazy_init = original

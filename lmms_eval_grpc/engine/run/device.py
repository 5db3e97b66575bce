"""What the model ran on, for the manifest."""

from __future__ import annotations

import platform
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
        }
    return {"type": device.type, "name": platform.machine(), "threads": torch.get_num_threads()}

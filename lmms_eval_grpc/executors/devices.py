"""Which devices this machine has: GPUs by NVML, which neither imports torch nor initialises CUDA, else the CPU."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval_grpc.executors.base import Device

AUTO = "auto"

_DEVICE_FILES = Path("/dev")


class UnknownDevice(ValueError):
    """A device was named that this machine does not have."""


class UnreadableDevices(UnknownDevice):
    """This machine has GPUs, but its driver does not say which."""


@dataclass(frozen=True, slots=True)
class LocalDevice:
    """A device, and how a process is confined to it."""

    device: Device
    cuda_id: str = ""
    """Its entry in ``CUDA_VISIBLE_DEVICES``; empty for a CPU."""


def find_devices(names: Sequence[str] = (AUTO,)) -> tuple[LocalDevice, ...]:
    """The devices to use, in slot order.

    Args:
        names: ``auto`` for every GPU, or one CPU slot where there is none; or a list of ``cpu`` (once per slot wanted),
            ``cuda`` (every GPU) and ``cuda:N``. N counts the GPUs that this process may see, as in torch.

    Raises:
        UnknownDevice: a name is unknown, missing on this machine, or names a GPU twice; says which devices there are.
        UnreadableDevices: GPUs are wanted, and there are some that cannot be asked. A CPU slot in their place would
            take minutes for what they do in seconds, and fail every queued job that names one.
    """
    wants_gpus = any(name != "cpu" for name in names)
    gpus = {gpu.device.name: gpu for gpu in find_gpus(os.environ)} if wants_gpus else {}
    if not names:
        raise UnknownDevice(f"no device is named; {_describe(gpus)}")
    found: list[LocalDevice] = []
    for name in names:
        if name == AUTO:
            found.extend(gpus.values() or [cpu_device()])
        elif name == "cpu":
            found.append(cpu_device())
        elif name == "cuda" and gpus:
            found.extend(gpus.values())
        elif name in gpus:
            found.append(gpus[name])
        else:
            raise UnknownDevice(f"there is no device {name!r} here; {_describe(gpus)}")
    held = [local.device.name for local in found if local.cuda_id]
    twice = sorted({name for name in held if held.count(name) > 1})
    if twice:
        raise UnknownDevice(f"{', '.join(twice)} is named more than once; a GPU runs one job at a time")
    return tuple(found)


def find_gpus(environment: Mapping[str, str]) -> tuple[LocalDevice, ...]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` allows, in its order; empty on a machine without, or without NVML.

    Raises:
        UnreadableDevices: there are GPUs, but NVML cannot be used.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    try:
        import pynvml
    except ImportError as error:
        return _none_or_unreadable(error, visible)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _none_or_unreadable(error, visible)
    try:
        return _visible_gpus(pynvml, visible)
    except pynvml.NVMLError as error:
        return _none_or_unreadable(error, visible)
    finally:
        pynvml.nvmlShutdown()


def cpu_device() -> LocalDevice:
    """The CPU as one slot."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return LocalDevice(Device("cpu", _cpu_model(), memory))


def confine(devices: Sequence[LocalDevice]) -> dict[str, str]:
    """Environment variables that leave a worker these devices and no others."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(local.cuda_id for local in devices if local.cuda_id)}


def torch_device(devices: Sequence[LocalDevice]) -> str:
    """The torch device string of a worker that is confined to ``devices``."""
    gpus = sum(1 for local in devices if local.cuda_id)
    if not gpus:
        return "cpu"
    return "cuda:0" if gpus == 1 else "cuda"


def _none_or_unreadable(error: Exception, visible: str | None) -> tuple[LocalDevice, ...]:
    hidden = visible is not None and visible.strip() in ("", "-1")
    files = sorted(path.name for path in _DEVICE_FILES.glob("nvidia[0-9]*"))
    if hidden or not files:
        return ()
    raise UnreadableDevices(
        f"this machine has GPUs ({', '.join(files)} in {_DEVICE_FILES}), but the NVIDIA driver does not say which:"
        f" {type(error).__name__}: {error}; see whether nvidia-smi works (after an update of the driver it takes a"
        " restart of the machine), or name the device cpu to do without GPUs"
    ) from error


def _visible_gpus(nvml: Any, visible: str | None) -> tuple[LocalDevice, ...]:
    if visible is None:
        handles = [_handle(nvml, str(index)) for index in range(nvml.nvmlDeviceGetCount())]
    else:
        handles = []
        for entry in visible.split(","):
            handle = _handle(nvml, entry.strip())
            # CUDA itself stops at the first entry that it cannot find, -1 and the empty one included.
            if handle is None:
                break
            handles.append(handle)
    return tuple(_describe_gpu(nvml, index, handle) for index, handle in enumerate(h for h in handles if h is not None))


def _handle(nvml: Any, entry: str) -> Any | None:
    try:
        if entry.startswith("MIG-"):
            return nvml.nvmlDeviceGetHandleByUUID(entry)
        if entry.startswith("GPU-"):
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(entry):
                    return handle
            return None
        return nvml.nvmlDeviceGetHandleByIndex(int(entry)) if entry.isdigit() else None
    except nvml.NVMLError:
        return None


def _describe_gpu(nvml: Any, index: int, handle: Any) -> LocalDevice:
    # By UUID, because CUDA and NVML may number the same GPUs in different orders.
    product, memory = _text(nvml.nvmlDeviceGetName(handle)), int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return LocalDevice(Device(f"cuda:{index}", product, memory), _text(nvml.nvmlDeviceGetUUID(handle)))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _describe(gpus: Mapping[str, LocalDevice]) -> str:
    if not gpus:
        return "this machine has: cpu (no GPU was found)"
    return f"this machine has: cpu, {', '.join(f'{name} ({gpu.device.product})' for name, gpu in gpus.items())}"

"""GPUs: what the driver says, what torch says, and whether both mean the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok, warning
from lmms_eval_grpc.cli.doctor.setup import Setup, mebibytes
from lmms_eval_grpc.executors.devices import UnknownDevice, find_devices

_TIMEOUT = 120.0
"""Seconds: on a cold disk the import of torch alone takes half a minute."""
_SCRIPT = """
import json, warnings
told = {"warnings": []}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    told |= {"version": torch.__version__, "built_for": torch.version.cuda or torch.version.hip}
    told["devices"] = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            try:
                torch.ones(8, device=f"cuda:{index}").sum().item()
                told["devices"].append(None)
            except Exception as error:
                told["devices"].append(f"{type(error).__name__}: {error}".splitlines()[0])
    told["warnings"] = [str(one.message).splitlines()[0] for one in caught if "CUDA" in str(one.message)]
print("\\n" + json.dumps(told))
"""


def check_devices(setup: Setup) -> Iterator[Finding]:
    """The devices that jobs would run on."""
    if setup.args.executor == "ray":
        yield ok("devices", "those of the Ray cluster")
        return
    try:
        devices = find_devices(setup.args.devices)
    except UnknownDevice as error:
        yield failure("devices", str(error), "correct the setting devices, or mend the driver")
        return
    told = "; ".join(
        f"{local.device.name} {local.device.product}, {mebibytes(local.device.memory_bytes)}" for local in devices
    )
    gpus = [local for local in devices if local.cuda_id]
    if gpus:
        told += f"; driver {_driver()}"
    if not gpus and setup.args.devices == ("auto",):
        yield warning(
            "devices",
            f"no GPU was found, jobs run on the CPU: {told}",
            "if there is one, see that nvidia-smi works, that CUDA_VISIBLE_DEVICES does not hide it, and that a"
            " container was started with --gpus all; otherwise set devices to cpu",
        )
    else:
        yield ok("devices", told)
    told_by_torch = _ask_torch(setup)
    if isinstance(told_by_torch, str):
        remedy = 'reinstall it: pip install --force-reinstall "torch>=2.4" (see pytorch.org)'
        yield failure("torch", told_by_torch, remedy)
    else:
        yield judge_torch(told_by_torch, len(gpus))


def _driver() -> str:
    """The version of the NVIDIA driver, which is there."""
    import pynvml

    pynvml.nvmlInit()
    try:
        version = pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()
    return version.decode() if isinstance(version, bytes) else str(version)


def judge_torch(told: Mapping[str, Any], gpus: int) -> Finding:
    """Whether torch can use the GPUs, of which the driver shows ``gpus``; ``told``: what :data:`_SCRIPT` prints."""
    version = f"torch {told['version']}, built for {told['built_for'] or 'the CPU only'}"
    if not gpus:
        return ok("torch", version)
    if told["built_for"] is None:
        remedy = "install a torch that is built for your CUDA (see pytorch.org)"
        return failure("torch", f"{version}, but there are GPUs", remedy)
    if len(told["devices"]) < gpus:
        said = "; ".join(told["warnings"]) or "no reason is given"
        return failure(
            "torch",
            f"{version}: it can use {len(told['devices'])} of {gpus} GPUs ({said})",
            "install a torch built for a CUDA that the driver supports (nvidia-smi shows which), or a newer driver",
        )
    if broken := {f"cuda:{index}": why for index, why in enumerate(told["devices"]) if why is not None}:
        return failure(
            "torch",
            "; ".join(f"{name} cannot be computed with: {why}" for name, why in broken.items()),
            "see nvidia-smi for a process that holds it, or leave it out of devices",
        )
    return ok("torch", f"{version}; it can compute on every GPU")


def _ask_torch(setup: Setup) -> dict[str, Any] | str:
    """What torch says, in a process of its own, as a worker has it; text where it cannot be asked."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env=dict(setup.environ),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"torch could not be imported within {_TIMEOUT:g} s"
    try:
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines()
        return f"torch cannot be imported: {lines[-1] if lines else f'the process ended with {done.returncode}'}"
    return told

"""Which devices there are, and how a worker is confined to its own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmms_eval_grpc.executors import devices
from lmms_eval_grpc.executors.base import Device
from lmms_eval_grpc.executors.devices import (
    LocalDevice,
    UnknownDevice,
    UnreadableDevices,
    confine,
    find_devices,
    torch_device,
)

GPUS = ("GPU-aa11", "GPU-aa22", "GPU-bb33")


class _Error(Exception):
    pass


def _nvml(uuids: tuple[str, ...] = GPUS) -> Any:
    """The part of NVML that is used, for a machine with these GPUs: the machine that runs the tests may have none."""

    def by_index(index: int) -> int:
        if index >= len(uuids):
            raise _Error
        return index

    def by_uuid(uuid: str) -> int:
        if uuid not in uuids:
            raise _Error
        return uuids.index(uuid)

    return SimpleNamespace(
        NVMLError=_Error,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(uuids),
        nvmlDeviceGetHandleByIndex=by_index,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetUUID=lambda handle: uuids[handle],
        nvmlDeviceGetName=lambda handle: f"Model {handle}",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=1024 * (handle + 1)),
    )


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml(()))


@pytest.mark.usefixtures("no_gpu")
def test_a_machine_without_gpus_is_one_cpu_slot() -> None:
    (local,) = find_devices()
    assert local.device.name == "cpu"
    assert local.device.product
    assert local.device.memory_bytes > 2**28
    assert confine([local]) == {"CUDA_VISIBLE_DEVICES": ""}
    assert torch_device([local]) == "cpu"


@pytest.mark.usefixtures("no_gpu")
def test_naming_the_cpu_twice_makes_two_slots() -> None:
    assert [local.device.name for local in find_devices(("cpu", "cpu"))] == ["cpu", "cpu"]


@pytest.mark.usefixtures("three_gpus")
def test_gpus_are_found_with_product_and_memory_and_named_as_in_torch() -> None:
    assert find_devices() == (
        LocalDevice(Device("cuda:0", "Model 0", 1024), "GPU-aa11"),
        LocalDevice(Device("cuda:1", "Model 1", 2048), "GPU-aa22"),
        LocalDevice(Device("cuda:2", "Model 2", 3072), "GPU-bb33"),
    )
    assert find_devices(("cuda",)) == find_devices()


@pytest.mark.usefixtures("three_gpus")
def test_named_gpus_come_in_the_order_named_and_confine_their_worker_by_uuid() -> None:
    held = find_devices(("cuda:2", "cuda:0"))
    assert confine(held) == {"CUDA_VISIBLE_DEVICES": "GPU-bb33,GPU-aa11"}
    assert torch_device(held) == "cuda"
    assert torch_device(held[:1]) == "cuda:0", "its only GPU is the worker's first"
    assert [local.device.name for local in find_devices(("cuda:1", "cpu"))] == ["cuda:1", "cpu"]


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("2,0", ["GPU-bb33", "GPU-aa11"]),
        ("GPU-bb", ["GPU-bb33"]),
        ("1,7,0", ["GPU-aa22"]),
        ("-1", []),
        ("", []),
    ],
)
def test_gpus_hidden_from_the_server_are_hidden_from_its_jobs(
    monkeypatch: pytest.MonkeyPatch, visible: str, found: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus = devices.find_gpus({"CUDA_VISIBLE_DEVICES": visible})
    assert [gpu.cuda_id for gpu in gpus] == found
    assert [gpu.device.name for gpu in gpus] == [f"cuda:{index}" for index in range(len(found))]


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize("name", ["cuda:3", "gpu", "cuda:", "CPU", ""])
def test_an_unknown_device_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(UnknownDevice, match=r"cpu, cuda:0 \(Model 0\), cuda:1") as caught:
        find_devices((name,))
    assert repr(name) in str(caught.value)


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_on_a_machine_without_is_refused() -> None:
    with pytest.raises(UnknownDevice, match="no GPU was found"):
        find_devices(("cuda:0",))
    with pytest.raises(UnknownDevice, match="no device is named"):
        find_devices(())


@pytest.mark.usefixtures("three_gpus")
def test_a_gpu_cannot_be_two_slots() -> None:
    with pytest.raises(UnknownDevice, match="cuda:1 is named more than once"):
        find_devices(("cuda:1", "cuda"))


@pytest.fixture(params=["library", "driver", "device"])
def broken_nvml(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise _Error("Driver/library version mismatch")

    broken = _nvml()
    if request.param == "driver":
        broken.nvmlInit = fail
    elif request.param == "device":
        broken.nvmlDeviceGetCount = fail
    monkeypatch.setitem(sys.modules, "pynvml", None if request.param == "library" else broken)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def device_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """In the place of ``/dev``: no GPU yet."""
    monkeypatch.setattr(devices, "_DEVICE_FILES", tmp_path)
    (tmp_path / "nvidiactl").touch()
    return tmp_path


@pytest.mark.usefixtures("broken_nvml", "device_files")
def test_without_a_gpu_a_driver_that_does_not_work_is_no_matter() -> None:
    assert [local.device.name for local in find_devices()] == ["cpu"]
    with pytest.raises(UnknownDevice, match="no GPU was found"):
        find_devices(("cuda:0",))


@pytest.mark.usefixtures("broken_nvml")
def test_gpus_that_cannot_be_asked_are_not_replaced_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch, device_files: Path
) -> None:
    (device_files / "nvidia0").touch()
    (device_files / "nvidia1").touch()
    for names in (("auto",), ("cuda",), ("cpu", "cuda:0")):
        with pytest.raises(UnreadableDevices, match=r"GPUs \(nvidia0, nvidia1 in .*nvidia-smi.*name the device cpu"):
            find_devices(names)
    assert [local.device.name for local in find_devices(("cpu",))] == ["cpu"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [local.device.name for local in find_devices()] == ["cpu"]

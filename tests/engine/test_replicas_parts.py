"""Who gets which requests, and which device a replica has: no process needed."""

from __future__ import annotations

import threading

import pytest

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.entry import ModelEntry
from lmms_eval_grpc.engine.models.replicas.devices import ReplicaDevice, share_out
from lmms_eval_grpc.engine.models.replicas.work import LARGEST_WINDOW, MAX_DEATHS, SMALLEST_WINDOW, WorkQueue


def drain(work: WorkQueue) -> list[list[int]]:
    """All windows, each answered at once."""
    windows = []
    while (indices := work.take(wait=True)) is not None:
        windows.append(list(indices))
        work.note_answered(len(indices))
    return windows


@pytest.mark.parametrize("count", [1, 2, 3, 17, 40, 360, 5000])
@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_every_request_is_dealt_once_and_windows_shrink_towards_the_end(count: int, replicas: int) -> None:
    windows = drain(WorkQueue(count, replicas))
    assert [index for window in windows for index in window] == list(range(count))
    sizes = list(map(len, windows))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= LARGEST_WINDOW
    assert sizes[0] <= -(-count // replicas), "no replica gets more than its share while others have nothing"
    if count > 100:
        assert sizes[-2] == SMALLEST_WINDOW


def test_few_requests_are_shared_out_evenly_and_none_is_hoarded() -> None:
    work = WorkQueue(4, 2)
    assert work.take(wait=True) == [0, 1]
    assert work.take(wait=False) is None
    assert work.take(wait=True) == [2, 3]


def test_a_window_in_advance_is_for_as_long_as_there_is_plenty() -> None:
    work = WorkQueue(1000, 2)
    assert work.take(wait=True)
    assert work.take(wait=False)
    while work.take(wait=False):
        pass
    rest = drain_sizes(work)
    assert SMALLEST_WINDOW < sum(rest) <= 2 * SMALLEST_WINDOW


def drain_sizes(work: WorkQueue) -> list[int]:
    return [len(window) for _ in range(2) if (window := work.take(wait=True))]


def test_no_window_is_smaller_than_a_batch_while_there_are_enough() -> None:
    assert list(map(len, drain(WorkQueue(300, 2, batch_size=64)))) == [75, 64, 64, 64, 33]


def test_requests_of_a_dead_replica_are_tried_among_few_then_alone_then_blamed() -> None:
    work = WorkQueue(100, 2)
    first = work.take(wait=True)
    assert first is not None
    assert work.redistribute(first, []) == []
    others = 0
    while others < 100 - len(first):
        others += len(work.take(wait=True) or ())
    suspects = [work.take(wait=True) or () for _ in range(2)]
    assert sorted(index for window in suspects for index in window) == list(first)
    assert all(len(window) <= SMALLEST_WINDOW for window in suspects)
    assert work.redistribute(suspects[0], []) == []
    alone = [work.take(wait=True) for _ in suspects[0]]
    assert alone == [[index] for index in suspects[0]]
    for _ in range(2, MAX_DEATHS - 1):
        assert work.redistribute([first[0]], []) == []
        assert work.take(wait=True) == [first[0]]
    assert work.redistribute([first[0]], []) == [first[0]]


def test_a_window_that_a_dead_replica_had_not_begun_is_above_suspicion() -> None:
    work = WorkQueue(100, 2)
    current, waiting = work.take(wait=True), work.take(wait=False)
    assert current is not None
    assert waiting is not None
    work.redistribute(current, waiting)
    following = work.take(wait=True)
    assert following is not None
    assert list(following)[: len(waiting)] == list(waiting)


def test_an_idle_replica_waits_for_what_another_may_leave() -> None:
    work = WorkQueue(2, 2)
    assert work.take(wait=True) == [0]
    assert work.take(wait=True) == [1]
    found: list[object] = []
    waiter = threading.Thread(target=lambda: found.append(work.take(wait=True)))
    waiter.start()
    work.redistribute([1], [])
    waiter.join(60)
    assert found == [[1]]


@pytest.mark.parametrize("end", ["stop", "answer"])
def test_an_idle_replica_is_let_go_at_the_end(end: str) -> None:
    work = WorkQueue(1, 2)
    assert work.take(wait=True) == [0]
    found: list[object] = []
    waiter = threading.Thread(target=lambda: found.append(work.take(wait=True)))
    waiter.start()
    if end == "stop":
        work.stop()
    else:
        work.note_answered(1)
    waiter.join(60)
    assert found == [None]
    assert (work.stopped, work.finished) == (end == "stop", end == "answer")


def test_each_replica_sees_one_gpu_of_those_that_the_job_has() -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "GPU-aa, GPU-bb,GPU-cc"}
    assert share_out("cuda", 2, visible) == [
        ReplicaDevice("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-aa"}),
        ReplicaDevice("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-bb"}),
    ]
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in share_out("cuda", 3, {})] == ["0", "1", "2"]
    assert share_out("cpu", 2, visible) == [ReplicaDevice("cpu")] * 2
    assert [one.name for one in share_out("xpu", 2, {})] == ["xpu:0", "xpu:1"]


@pytest.mark.parametrize(
    ("device", "visible", "words"),
    [
        ("cuda:1", {}, "'cuda:1' is one device, but num_gpus is 2; give device 'cuda'"),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "3"}, "num_gpus is 2, but CUDA_VISIBLE_DEVICES is '3'"),
        ("cuda", {"CUDA_VISIBLE_DEVICES": ""}, "num_gpus is 2, but CUDA_VISIBLE_DEVICES is ''"),
    ],
)
def test_too_few_devices_are_refused(device: str, visible: dict[str, str], words: str) -> None:
    with pytest.raises(EvaluationError, match=words) as caught:
        share_out(device, 2, visible)
    assert caught.value.reason == "DEVICE_UNAVAILABLE"


def test_a_model_that_is_spread_over_devices_or_uses_them_itself_has_no_replicas() -> None:
    entry = registry.resolve("qwen2_5_vl")
    assert entry is not None
    assert entry.replicas({"pretrained": "x"}, 4) == 4
    assert entry.replicas({"pretrained": "x", "device_map": None}, 4) == 4
    assert entry.replicas({"pretrained": "x", "device_map": "auto"}, 4) == 1
    assert ModelEntry("x", "", "nowhere:load", {}, several_devices="own").replicas({}, 4) == 1

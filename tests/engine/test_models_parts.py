"""Small parts of the backend: generation arguments, stop strings, memory, prefetching, identity."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, GenerationConfig, LogitsProcessorList

from lmms_eval_grpc.engine.allocator import keep_freed
from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models import checkpoint_files
from lmms_eval_grpc.engine.models.checkpoint_files import digest_checkpoint
from lmms_eval_grpc.engine.models.generation_arguments import truncate
from lmms_eval_grpc.engine.models.huggingface import memory, planning
from lmms_eval_grpc.engine.models.huggingface.generation import generation_key, plan_generation
from lmms_eval_grpc.engine.models.huggingface.media import Media
from lmms_eval_grpc.engine.models.huggingface.memory import (
    BatchSizer,
    RowSize,
    is_device_lost,
    is_out_of_memory,
)
from lmms_eval_grpc.engine.models.huggingface.planning import Planner, PreparedRequest, even_size, is_late
from lmms_eval_grpc.engine.models.huggingface.prefetch import Demand, Prefetcher
from lmms_eval_grpc.engine.models.huggingface.sampling import OwnChoice, make_warpers


def plan(**generation: object) -> GenerationConfig:
    defaults = GenerationConfig(do_sample=True, temperature=0.3, top_p=0.5, repetition_penalty=1.05, max_length=20)
    return plan_generation(
        generation, defaults=defaults, max_new_tokens=7, use_cache=True, special_tokens={"<end>": 9}
    ).config


def test_greedy_unless_asked_otherwise() -> None:
    assert not plan().do_sample
    assert not plan(temperature=0, do_sample=True).do_sample
    assert samples(temperature=0.7)
    assert samples(temperature=0.7, do_sample=False)  # an override of a task's temperature takes effect
    assert samples(do_sample=True)
    for greedy in ({}, {"temperature": 0, "do_sample": True}):
        assert not samples(**greedy)
    assert plan(do_sample=True, num_beams=2).do_sample  # left to transformers


def samples(**generation: object) -> bool:
    defaults = GenerationConfig(top_p=0.5)
    planned = plan_generation(generation, defaults=defaults, max_new_tokens=7, use_cache=True, special_tokens={})
    return planned.warpers is not None


def test_tokens_are_drawn_as_transformers_would_draw_them() -> None:
    config = GenerationConfig(do_sample=True, temperature=0.7, top_k=6, top_p=0.9)
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    narrowed = LogitsProcessorList(make_warpers(config))(torch.zeros(1, 1, dtype=torch.long), logits)
    assert 1 < int(narrowed.isfinite().sum()) <= 6
    draws = 20_000
    choice = OwnChoice(range(draws), prompt_length=1, max_new_tokens=1, device=torch.device("cpu"))
    scores = choice(torch.zeros(draws, 1, dtype=torch.long), narrowed.expand(draws, -1))
    assert bool((scores.isfinite().sum(dim=1) == 1).all())
    found = torch.bincount(scores.argmax(dim=1), minlength=12) / draws
    # Five standard errors of a share from 20,000 draws.
    torch.testing.assert_close(found, torch.softmax(narrowed[0], dim=-1), atol=0.018, rtol=0.0)
    assert bool((found[~narrowed[0].isfinite()] == 0).all())


def test_the_checkpoints_own_defaults_stay_where_they_do_not_sample() -> None:
    config = plan()
    assert config.repetition_penalty == 1.05
    assert config.temperature is None
    assert config.max_length is None
    assert config.max_new_tokens == 7
    assert plan(max_gen_toks=3).max_new_tokens == 3


def test_keys_for_other_backends_are_ignored_and_unknown_ones_refused() -> None:
    plan(image_aspect_ratio="pad", visual_cot=True)
    with pytest.raises(EvaluationError, match="tempertaure"):
        plan(tempertaure=1)
    with pytest.raises(EvaluationError, match="max_new_tokens"):
        plan(max_new_tokens=0)
    with pytest.raises(EvaluationError, match="until"):
        plan(until=[1])


def test_a_stop_string_that_is_a_special_token_becomes_an_end_token() -> None:
    assert plan(until=["</s>", "<end>"]).eos_token_id == [9]


def test_equal_arguments_in_another_order_share_batches() -> None:
    assert generation_key({"a": 1, "until": ["x"]}) == generation_key({"until": ["x"], "a": 1})
    assert generation_key({"a": 1}) != generation_key({"a": 2})


def test_text_ends_before_the_first_stop_string() -> None:
    assert truncate("one\n\ntwo END", ["END", "\n\n"]) == "one"
    assert truncate("one", ["", "two"]) == "one"


def test_memory_errors_are_told_from_others() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
)
def test_want_of_memory_is_no_lost_device(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_device_lost(error)
    assert is_device_lost(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))


def test_a_real_failed_allocation_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.fixture
def model(tiny: Callable[[str], Path]) -> Any:
    return AutoModelForImageTextToText.from_pretrained(tiny("idefics3"))


def test_automatic_batches_shrink_with_length(model: Any) -> None:
    sizer = BatchSizer(model, fixed=None, ceiling=48)
    assert sizer.size_for(RowSize(tokens=100, input_bytes=1000)) == 48
    assert sizer.size_for(RowSize(tokens=100, input_bytes=1 << 45)) == 1
    assert BatchSizer(model, fixed=7, ceiling=None).size_for(RowSize(tokens=100, input_bytes=1 << 45)) == 7


def test_what_ran_out_of_memory_halves_every_later_batch_by_its_tokens(model: Any) -> None:
    sizer = BatchSizer(model, fixed=None, ceiling=None)
    long, short = RowSize(tokens=800, input_bytes=0), RowSize(tokens=100, input_bytes=0)
    sizer.shrink(rows=32, row=long)
    assert sizer.size_for(long) == 16
    assert sizer.size_for(short) == 128
    assert not sizer.allows(rows=32, row=long)
    assert sizer.allows(rows=128, row=short)
    sizer.shrink(rows=1, row=long)
    assert sizer.size_for(long) == 1
    assert sizer.allows(rows=1, row=long)


def test_a_size_that_is_fixed_is_halved_by_its_rows(model: Any) -> None:
    sizer = BatchSizer(model, fixed=12, ceiling=None)
    sizer.shrink(rows=12, row=RowSize(tokens=800, input_bytes=0))
    assert sizer.size_for(RowSize(tokens=1, input_bytes=0)) == 6


def test_batches_that_would_take_long_stay_moderate(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = RowSize(tokens=100, input_bytes=0)
    assert BatchSizer(model, fixed=None, ceiling=None).size_for(row) == 512
    work = 2 * 100 * sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setitem(memory.BATCH_WORK, "cpu", 200 * work)
    assert BatchSizer(model, fixed=None, ceiling=None).size_for(row) == 128
    monkeypatch.setitem(memory.BATCH_WORK, "cpu", work)
    assert BatchSizer(model, fixed=None, ceiling=None).size_for(row) == 64


def test_automatic_sizes_follow_the_memory_that_batches_took(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 8 << 30)
    row = RowSize(tokens=1000, input_bytes=0)
    sizer = BatchSizer(model, fixed=None, ceiling=None)
    sizer.learn(4, row, memory.NOISE_BYTES - 1)
    assert sizer.size_for(row) == 512
    sizer.learn(4, row, 1 << 30)  # a quarter of a gibibyte each, so 8 GiB · 0.8 hold 25
    assert sizer.size_for(row) == 16
    sizer.learn(4, row, 1 << 29)  # less than the most seen
    assert sizer.size_for(row) == 16


measures_memory = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK),
    reason="this machine does not let a process reset its peak of memory",
)


@measures_memory
def test_the_memory_of_a_batch_is_measured(model: Any) -> None:
    sizer = BatchSizer(model, fixed=None, ceiling=None)
    row = RowSize(tokens=1000, input_bytes=0)
    seen: list[int] = []
    sizer.learn = lambda rows, row, taken: seen.append(taken)  # type: ignore[method-assign]
    with sizer.watch(4, row):
        torch.zeros(64 << 20)  # 256 MiB, gone again at once
    with contextlib.suppress(ValueError), sizer.watch(4, row):
        raise ValueError
    assert len(seen) == 1
    assert (250 << 20) < seen[0] < (1 << 30)


@measures_memory
def test_what_an_earlier_batch_left_is_not_counted_as_the_next_ones(model: Any) -> None:
    keep_freed()
    sizer = BatchSizer(model, fixed=None, ceiling=None)
    seen: list[int] = []
    sizer.learn = lambda rows, row, taken: seen.append(taken)  # type: ignore[method-assign]
    for rows, mebibytes in ((4, 256), (1, 4), (8, 256)):
        with sizer.watch(rows, RowSize(tokens=1000, input_bytes=0)):
            tensors = [torch.zeros(1 << 18) for _ in range(mebibytes)]
            del tensors
    large, small, larger = seen
    assert (200 << 20) < large < (1 << 30)
    assert small < memory.NOISE_BYTES
    assert (200 << 20) < larger < (1 << 30), "the memory of the first was given back, or this one would take none"


def test_prefetching_keeps_order_and_passes_errors_on() -> None:
    def late(number: int) -> int:
        time.sleep(0.1 / number)
        return number

    def numbers(pool: Executor, demand: Demand) -> Iterator[Future[int]]:
        yield from (pool.submit(late, number) for number in range(1, 6))
        raise ValueError("six")

    with Prefetcher(numbers, threads=4) as items:
        assert [next(items) for _ in range(5)] == [1, 2, 3, 4, 5]
        with pytest.raises(ValueError, match="six"):
            next(items)
        assert list(items) == []


def test_an_items_own_error_is_raised_in_its_place() -> None:
    with Prefetcher(lambda pool, demand: (pool.submit(divmod, 6, number) for number in (3, 0, 2))) as items:
        assert next(items) == (2, 0)
        with pytest.raises(ZeroDivisionError):
            next(items)
        assert next(items) == (3, 0)


def test_prefetching_stays_bounded_and_leaves_no_thread() -> None:
    made: list[int] = []
    closed = threading.Event()

    def numbers(pool: Executor, demand: Demand) -> Iterator[Future[int]]:
        try:
            for number in range(1000):
                made.append(number)
                yield pool.submit(int, number)
        finally:
            closed.set()

    before = threading.active_count()
    items = Prefetcher(numbers, depth=1)
    assert next(items) == 0
    items.close()
    assert closed.is_set()
    assert len(made) <= 3
    assert threading.active_count() == before


def test_closing_drops_what_no_thread_has_begun() -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        go_on.wait(60)
        return number

    def numbers(pool: Executor, demand: Demand) -> Iterator[Future[int]]:
        yield from (pool.submit(work, number) for number in range(1000))

    before = threading.active_count()
    items = Prefetcher(numbers, threads=1, depth=10)
    while not begun:
        time.sleep(0.001)
    closing = threading.Thread(target=items.close)
    closing.start()
    while not items._demand.closed:
        time.sleep(0.001)
    go_on.set()
    closing.join()
    assert begun == [0]
    assert threading.active_count() == before


def prepared(cost: float, index: int = 0) -> PreparedRequest:
    return PreparedRequest(index, "", Media(), {}, "", cost)


def test_short_requests_do_not_pad_the_batches_of_much_longer_ones() -> None:
    ragged = [prepared(800.0)] * 100 + [prepared(100.0)] * 100
    assert even_size(ragged, 150) <= 103
    assert even_size(ragged[100:], 150) == 100
    assert even_size([prepared(800.0)] * 100 + [prepared(500.0)] * 100, 150) == 150
    assert even_size([prepared(80.0), prepared(10.0), prepared(10.0)], 64) == 3  # not worth another batch


def plan_all(requests: Sequence[int], *, threads: int, cut_early: bool) -> list[list[int]]:
    """The batches of requests whose cost is their number, each slow to prepare in its own way."""

    def prepare(index: int, request: int) -> PreparedRequest:
        time.sleep(0.0005 * (index % 3))
        return prepared(float(request), index)

    planner: Planner[Any] = Planner(prepare, list, lambda longest: 16, cut_early)
    with Prefetcher(partial(planner.plan, requests), threads=threads) as steps:
        return [[request.index for request in step.batch.requests] for step in steps if step.batch]


def test_batches_of_a_fixed_size_do_not_depend_on_threads_or_time() -> None:
    requests = [number * 37 % 211 for number in range(200)]
    batches = plan_all(requests, threads=1, cut_early=False)
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    assert [len(batch) for batch in batches[:4]] == [16] * 4
    for threads in (1, 2, 5):
        assert plan_all(requests, threads=threads, cut_early=False) == batches


def test_full_batches_are_waited_for_whatever_else_is_asked_meanwhile() -> None:
    def prepare(index: int, request: int) -> PreparedRequest:
        return PreparedRequest(index, "", Media(), {}, f"arguments {index % 2}", 1.0)

    planner: Planner[Any] = Planner(prepare, list, lambda longest: 700, cut_early=False)
    with Prefetcher(partial(planner.plan, range(1600))) as steps:
        sizes = [len(step.batch.requests) for step in steps if step.batch]
    assert sizes == [700, 700, 100, 100]


@pytest.mark.parametrize(
    ("patience", "cut_early", "cut"), [(0.0, True, True), (0.0, False, False), (600.0, True, False)]
)
def test_an_idle_model_gets_what_is_prepared(
    patience: float, cut_early: bool, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "PATIENCE", patience)
    planner: Planner[Any] = Planner(lambda index, _: prepared(1.0, index), list, lambda longest: 16, cut_early)
    demand = Demand(threads=1)
    demand.waiting = True
    with ThreadPoolExecutor(1) as pool:
        steps = [step.result() for step in planner.plan(range(40), pool, demand)]
    batches = [step.batch.requests for step in steps if step.batch]
    assert [request.index for batch in batches for request in batch] == list(range(40))
    assert [len(batch) for batch in batches] == ([1] * 40 if cut else [16, 16, 8])


def test_an_idle_model_does_not_wait_for_what_is_prepared_after_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "PATIENCE", 0.0)
    encoded = threading.Event()

    def prepare(index: int, request: int) -> PreparedRequest:
        assert index == 0 or encoded.wait(60), "the only preparing thread was to encode as well"
        return prepared(1.0, index)

    def encode(chunk: Sequence[PreparedRequest]) -> Sequence[PreparedRequest]:
        encoded.set()
        return chunk

    planner: Planner[Any] = Planner(prepare, encode, lambda longest: 16, cut_early=True)
    demand = Demand(threads=1)
    demand.waiting = True
    with ThreadPoolExecutor(1) as pool:
        steps = planner.plan(range(20), pool, demand)
        first = next(steps).result(60)
        demand.waiting = False
        rest = [step.result(60) for step in steps]
    assert first.batch is not None
    assert [request.index for request in first.batch.requests] == [0]
    assert [request.index for step in rest if step.batch for request in step.batch.requests] == list(range(1, 20))
    assert all(not step.broken for step in rest)


def test_what_an_idle_model_waited_for_is_dropped_when_nobody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "PATIENCE", 0.0)
    go_on = threading.Event()
    encoded: list[int] = []

    def encode(chunk: Sequence[PreparedRequest]) -> Sequence[PreparedRequest]:
        encoded.extend(request.index for request in chunk)
        assert go_on.wait(60)
        return chunk

    planner: Planner[Any] = Planner(lambda index, _: prepared(1.0, index), encode, lambda longest: 16, cut_early=True)
    demand = Demand(threads=1)
    demand.waiting = True
    with ThreadPoolExecutor(1) as pool:
        steps = planner.plan(range(20), pool, demand)
        begun = [next(steps) for _ in range(3)]
        demand.closed = True
        closing = threading.Thread(target=steps.close)  # type: ignore[attr-defined]
        closing.start()
        with pytest.raises(CancelledError):
            begun[2].result(30)
        go_on.set()
        closing.join()
    assert encoded == [0]
    assert begun[0].result().batch is not None


def test_patience_lasts_longer_where_the_rest_is_soon_there() -> None:
    patience = planning.PATIENCE
    assert not is_late(0.9 * patience, 10, 1000)
    assert is_late(1.1 * patience, 10, 1000)
    assert not is_late(1.1 * patience, 100, 50)
    assert is_late(2.1 * patience, 100, 50)
    assert not is_late(9.0 * patience, 100, 0)


@pytest.mark.parametrize(("quick", "places"), [(600.0, {"prepare", "prefetch"}), (0.0, {"prepare"})])
def test_quick_requests_are_prepared_where_they_are_fetched(
    quick: float, places: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "QUICK_SECONDS", quick)
    threads: list[str] = []

    def prepare(index: int, request: int) -> PreparedRequest:
        threads.append(threading.current_thread().name.partition("_")[0])
        if request == 7:
            raise ValueError("seven")
        return prepared(1.0, index)

    planner: Planner[Any] = Planner(prepare, list, lambda longest: 16, False)
    with Prefetcher(partial(planner.plan, range(50)), threads=2) as steps:
        found = list(steps)
    assert set(threads) == places
    assert threads[0] == "prepare"  # nobody knows yet how long one takes
    batches = [[request.index for request in step.batch.requests] for step in found if step.batch]
    assert [index for batch in batches for index in batch] == [index for index in range(50) if index != 7]
    assert [answer.index for step in found for answer in step.broken] == [7]


def test_what_is_fetched_slowly_is_prepared_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "QUICK_SECONDS", 600.0)
    ahead: dict[float, int] = {}
    for seconds in (0.0, 600.0):
        monkeypatch.setattr(planning, "FETCH_SECONDS", seconds)
        fetched: list[int] = []
        unprepared: list[int] = []

        class Requests(list[int]):
            def __getitem__(self, index: Any, fetched: list[int] = fetched) -> Any:
                fetched.append(index)
                return index

        def prepare(
            index: int, request: int, fetched: list[int] = fetched, unprepared: list[int] = unprepared
        ) -> PreparedRequest:
            unprepared.append(len(fetched) - index)
            return prepared(1.0, index)

        planner: Planner[Any] = Planner(prepare, list, lambda longest: 16, False)
        with Prefetcher(partial(planner.plan, Requests(range(64))), threads=1) as steps:
            assert sum(len(step.batch.requests) for step in steps if step.batch) == 64
        ahead[seconds] = max(unprepared[16:])
    assert ahead == {0.0: 1, 600.0: planning.TOGETHER}


def write_checkpoint(folder: Path, values: bytes) -> Path:
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("whole_file_limit", [1 << 30, 0])
def test_the_digest_follows_contents_not_dates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_file_limit: int
) -> None:
    monkeypatch.setattr(checkpoint_files, "WHOLE_FILE_LIMIT", whole_file_limit)
    weights = bytes(range(256)) * 400
    first = write_checkpoint(tmp_path / "a", weights)
    digest = digest_checkpoint(first)
    (first / "training_args.bin").write_bytes(b"whatever")
    assert digest_checkpoint(first) == digest
    assert digest_checkpoint(write_checkpoint(tmp_path / "copy", weights)) == digest
    for position in (0, len(weights) // 2, len(weights) - 1):
        changed = bytearray(weights)
        changed[position] ^= 1
        assert digest_checkpoint(write_checkpoint(tmp_path / f"at-{position}", bytes(changed))) != digest
    (first / "config.json").write_text("{ }")
    assert digest_checkpoint(first) != digest

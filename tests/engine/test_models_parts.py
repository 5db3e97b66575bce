"""Small parts of the backend: generation arguments, stop strings, memory, prefetching, identity."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, GenerationConfig

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.generation_arguments import truncate
from lmms_eval_grpc.engine.models.huggingface import identity
from lmms_eval_grpc.engine.models.huggingface.generation import generation_key, plan_generation
from lmms_eval_grpc.engine.models.huggingface.memory import BatchSizer, is_out_of_memory
from lmms_eval_grpc.engine.models.huggingface.prefetch import Prefetcher


def plan(**generation: object) -> GenerationConfig:
    defaults = GenerationConfig(do_sample=True, temperature=0.3, top_p=0.5, repetition_penalty=1.05, max_length=20)
    return plan_generation(
        generation, defaults=defaults, max_new_tokens=7, use_cache=True, special_tokens={"<end>": 9}
    ).config


def test_greedy_unless_asked_otherwise() -> None:
    assert not plan().do_sample
    assert not plan(temperature=0, do_sample=True).do_sample
    assert plan(temperature=0.7).do_sample
    assert plan(temperature=0.7, do_sample=False).do_sample  # an override of a task's temperature takes effect
    sampled = plan(do_sample=True)
    assert sampled.do_sample
    assert (sampled.temperature, sampled.top_p) == (0.3, 0.5)


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


def test_a_real_failed_allocation_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_automatic_batches_shrink_with_length_and_never_grow_back(tiny: Callable[[str], Path]) -> None:
    config = AutoConfig.from_pretrained(tiny("idefics3"))
    sizer = BatchSizer(config, torch.float32, torch.device("cpu"), fixed=None, ceiling=48)
    assert sizer.size_for(tokens=100, input_bytes=1000) == 48
    assert sizer.size_for(tokens=100, input_bytes=1 << 45) == 1
    assert sizer.shrink(failed=32) == 16
    assert sizer.size_for(tokens=100, input_bytes=1000) == 16
    assert sizer.shrink(failed=1) == 1


def test_prefetching_keeps_order_and_passes_errors_on() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("three")

    with Prefetcher(numbers()) as items:
        assert [next(items), next(items)] == [1, 2]
        with pytest.raises(ValueError, match="three"):
            next(items)
        assert list(items) == []


def test_prefetching_stays_bounded_and_leaves_no_thread() -> None:
    made: list[int] = []
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            for number in range(1000):
                made.append(number)
                yield number
        finally:
            closed.set()

    before = threading.active_count()
    items = Prefetcher(numbers(), depth=1)
    assert next(items) == 0
    items.close()
    assert closed.is_set()
    assert len(made) <= 3
    assert threading.active_count() == before


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
    monkeypatch.setattr(identity, "WHOLE_FILE_LIMIT", whole_file_limit)
    weights = bytes(range(256)) * 400
    first = write_checkpoint(tmp_path / "a", weights)
    digest = identity.digest_checkpoint(first)
    (first / "training_args.bin").write_bytes(b"whatever")
    assert identity.digest_checkpoint(first) == digest
    assert identity.digest_checkpoint(write_checkpoint(tmp_path / "copy", weights)) == digest
    for position in (0, len(weights) // 2, len(weights) - 1):
        changed = bytearray(weights)
        changed[position] ^= 1
        assert identity.digest_checkpoint(write_checkpoint(tmp_path / f"at-{position}", bytes(changed))) != digest
    (first / "config.json").write_text("{ }")
    assert identity.digest_checkpoint(first) != digest

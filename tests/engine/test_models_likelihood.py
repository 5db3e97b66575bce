"""Likelihoods from the Hugging Face backend: against a computation by hand, and the same in any batch."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.huggingface.backend import HuggingFaceBackend
from lmms_eval_grpc.engine.models.huggingface.conversation import to_conversation
from lmms_eval_grpc.engine.models.huggingface.media import Media
from lmms_eval_grpc.engine.models.huggingface.processor import encode
from lmms_eval_grpc.engine.models.protocol import GenerationRequest, GenerationResponse, LoglikelihoodRequest
from tests.support.checkpoints import SEEING, small_args

Tiny = Callable[[str], Path]


def load(family: str, folder: Path, batch_size: int | None) -> HuggingFaceBackend:
    arguments = {"pretrained": str(folder), "dtype": "float32", "system_prompt": None, **small_args(family)}
    backend = registry.create(family, arguments, device="cpu", batch_size=batch_size)
    assert isinstance(backend, HuggingFaceBackend)
    return backend


def ask(continuation: str, *images: Any, text: str = "What is this?") -> LoglikelihoodRequest:
    content = [*({"type": "image", "url": image} for image in images), {"type": "text", "text": text}]
    return LoglikelihoodRequest([{"role": "user", "content": content}], continuation)


def answers(backend: HuggingFaceBackend, requests: Sequence[LoglikelihoodRequest]) -> list[GenerationResponse]:
    found = [answer for batch in backend.loglikelihood(requests) for answer in batch]
    assert sorted(answer.index for answer in found) == list(range(len(requests)))
    return [answer.response for answer in sorted(found, key=lambda answer: answer.index)]


def values(responses: Sequence[GenerationResponse]) -> list[float]:
    assert all(response.error is None for response in responses), responses
    return [float(response.log_probability or 0.0) for response in responses]


def questions(digit_images: list[bytes]) -> list[LoglikelihoodRequest]:
    words = ("3", "seven", "a much longer answer than the others", " x", "no")
    found = [ask(word, digit_images[0], text="What" + " is" * index) for index, word in enumerate(words)]
    found += [ask(word, text="No picture") for word in words[:3]]
    return [*found, ask("4", digit_images[1], digit_images[2], text="Two")]


@torch.inference_mode()
def by_hand(backend: HuggingFaceBackend, request: LoglikelihoodRequest) -> tuple[float, bool]:
    """One token after the other, each from a forward pass of its own over everything before it."""
    images = []

    def read(kind: str, item: Any) -> list[dict[str, Any]]:
        images.append(Image.open(io.BytesIO(item["url"])).convert("RGB"))
        return [{"type": kind}]

    processor = backend.processor
    conversation = to_conversation(request.messages, read)
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    inputs = dict(encode(processor, [prompt], [Media(tuple(images))]))
    total, greedy = 0.0, True
    for token in processor.tokenizer(request.continuation, add_special_tokens=False)["input_ids"]:
        logits = backend.model(**inputs).logits[0, -1].double()
        total += float(torch.log_softmax(logits, dim=-1)[token])
        greedy &= int(logits.argmax()) == token
        length = inputs["input_ids"].shape[1]
        for name, tensor in inputs.items():
            if isinstance(tensor, torch.Tensor) and tensor.shape == (1, length):
                value = {"input_ids": token, "attention_mask": 1}.get(name, 0)
                inputs[name] = torch.cat([tensor, tensor.new_full((1, 1), value)], dim=1)
            elif name == "cross_attention_mask":
                inputs[name] = torch.cat([tensor, tensor[:, -1:]], dim=1)
    return total, greedy


@pytest.mark.parametrize("family", SEEING)
def test_likelihoods_are_those_computed_by_hand_in_any_batch(
    family: str, tiny: Tiny, digit_images: list[bytes]
) -> None:
    if family == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("SmolVLM's processor needs num2words")
    requests = questions(digit_images)
    backend = load(family, tiny(family), 1)
    expected = [by_hand(backend, request) for request in requests]
    for batch_size in (1, 7, None):
        responses = answers(load(family, tiny(family), batch_size), requests)
        assert values(responses) == pytest.approx([value for value, _ in expected], abs=1e-4), batch_size
        assert [response.is_greedy for response in responses] == [greedy for _, greedy in expected]
        assert all(response.input_tokens > 0 and response.output_tokens == 0 for response in responses)


def test_the_models_own_answer_is_greedy(tiny: Tiny) -> None:
    backend = load("llava_hf", tiny("llava_hf"), 4)
    head = torch.nn.Linear(32, backend.model.lm_head.out_features)
    head.weight.data.zero_()
    head.bias.data.zero_()
    head.bias.data[backend.processor.tokenizer.convert_tokens_to_ids("a")] = 1.0  # whatever is asked, it says aaa…
    backend.model.lm_head = head
    (batch,) = backend.generate([GenerationRequest(ask("").messages, {"max_new_tokens": 3})])
    assert batch[0].response.text == "aaa"
    responses = answers(backend, [ask("aaa"), ask("aab"), ask("b")])
    assert [response.is_greedy for response in responses] == [True, False, False]
    total = math.log(math.e + head.out_features - 1)
    assert values(responses) == pytest.approx([3 - 3 * total, 2 - 3 * total, -total], abs=1e-4)


def test_text_without_tokens_and_broken_images_fail_alone(tiny: Tiny, digit_images: list[bytes]) -> None:
    backend = load("idefics3", tiny("idefics3"), 8)
    responses = answers(backend, [ask("a"), ask(""), ask("a", digit_images[0][:50]), ask("a", digit_images[0])])
    assert [response.error is None for response in responses] == [True, False, False, True]
    assert "no tokens" in str(responses[1].error)
    assert math.isfinite(values([responses[3]])[0])


def test_probabilities_of_all_single_tokens_sum_to_one(tiny: Tiny) -> None:
    backend = load("idefics3", tiny("idefics3"), 64)
    tokenizer = backend.processor.tokenizer
    alone = {}
    for token in range(backend.model.config.get_text_config().vocab_size):
        text = tokenizer.decode([token])
        if tokenizer(text, add_special_tokens=False)["input_ids"] == [token]:
            alone[token] = text
    total = sum(math.exp(value) for value in values(answers(backend, [ask(text) for text in alone.values()])))
    assert 0.0 < total <= 1.0 + 1e-4

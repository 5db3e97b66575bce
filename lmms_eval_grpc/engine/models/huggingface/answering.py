"""One batch through the model: answers generated, or likelihoods of given ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from lmms_eval_grpc.engine.models.generation_arguments import truncate
from lmms_eval_grpc.engine.models.huggingface.generation import GenerationPlan
from lmms_eval_grpc.engine.models.huggingface.likelihood import score_continuations
from lmms_eval_grpc.engine.models.huggingface.planning import Batch
from lmms_eval_grpc.engine.models.huggingface.sampling import OwnChoice, request_seed
from lmms_eval_grpc.engine.models.huggingface.stopping import StopStrings, StopVocabulary
from lmms_eval_grpc.engine.models.protocol import Answer, GenerationResponse

_EXACT_INPUTS = ("second_per_grid_ts", "video_second_per_grid")
"""Times, which half precision would shift."""


def score_batch(model: Any, batch: Batch) -> list[Answer]:
    """Likelihoods of the requests' continuations."""
    inputs = _place(batch.inputs, model)
    prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
    scores = score_continuations(model, inputs, [request.continuation for request in batch.requests])
    return [
        Answer(
            request.index,
            GenerationResponse(
                input_tokens=int(tokens), log_probability=score.log_probability, is_greedy=score.is_greedy
            ),
        )
        for request, tokens, score in zip(batch.requests, prompt_tokens, scores, strict=True)
    ]


@torch.inference_mode()
def generate_batch(
    model: Any, batch: Batch, plan: GenerationPlan, stopping: StopVocabulary, *, hide_thoughts: bool = False
) -> list[Answer]:
    """Texts, cut before the first stop string, and how many tokens the model made for each.

    ``stopping`` is of the plan's stop strings. ``hide_thoughts`` keeps only what stands behind ``</think>``: nothing
    where a thought has no end.
    """
    inputs = _place(batch.inputs, model)
    prompt_length = inputs["input_ids"].shape[1]
    tokenizer = stopping.tokenizer
    plan.config.pad_token_id = tokenizer.pad_token_id
    criteria = [StopStrings(stopping, prompt_length)] if plan.stops else []
    processors: list[Any] = []
    if plan.warpers is not None:
        seeds = [
            request_seed(request.draw or f"{torch.initial_seed()} {request.index}", request.prompt)
            for request in batch.requests
        ]
        processors = [*plan.warpers, OwnChoice(seeds, prompt_length, plan.max_new_tokens, model.device)]
    output = model.generate(
        **inputs,
        generation_config=plan.config,
        stopping_criteria=StoppingCriteriaList(criteria),
        logits_processor=LogitsProcessorList(processors),
    )
    generated = output[:, prompt_length:].tolist()
    texts = tokenizer.batch_decode(generated, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
    ends = frozenset(plan.config.eos_token_id)
    answers = []
    for request, text, tokens, asked in zip(batch.requests, texts, generated, prompt_tokens, strict=True):
        said = text.partition("</think>")[2].strip() if hide_thoughts else text
        cut = truncate(said, plan.stops)
        count = _count_generated(tokens, ends, tokenizer.pad_token_id, stopped=cut != said)
        answers.append(Answer(request.index, GenerationResponse(cut, int(asked), count)))
    return answers


def _place(inputs: Any, model: Any) -> Any:
    """The tensors on the model's device, pixels and sound in its number format."""
    for name, tensor in inputs.items():
        exact = name in _EXACT_INPUTS or not tensor.is_floating_point()
        inputs[name] = tensor.to(model.device, None if exact else model.dtype)
    return inputs


def _count_generated(tokens: Sequence[int], ends: frozenset[int], pad: int, *, stopped: bool) -> int:
    """Tokens that the model made for this row, its end token included, the padding after it not."""
    for position, token in enumerate(tokens):
        if token in ends or token == pad:
            # After a stop string the row is filled with padding, which may be the end token itself.
            return position + 1 if token in ends and not stopped else position
    return len(tokens)

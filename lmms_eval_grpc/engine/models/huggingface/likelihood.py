"""How likely a model finds given texts: continuations put behind prompts, padded on the right, one forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch


class ContinuationScore(NamedTuple):
    """One continuation."""

    log_probability: float
    """Natural logarithm, summed over its tokens."""
    is_greedy: bool
    """Whether each token is the likeliest one at its place."""


def tokenize_continuation(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The tokens of ``text`` by itself, as a model would generate them behind a prompt.

    Raises ValueError for text without any token.
    """
    # Padding, of which one text gets none, as where batches are encoded: other threads do so meanwhile, and a fast
    # tokenizer keeps this setting between calls.
    tokens = tuple(tokenizer(text, add_special_tokens=False, padding=True, padding_side="right")["input_ids"])
    if not tokens:
        raise ValueError(f"the text {text!r} has no tokens, so it has no likelihood")
    return tokens


def append_continuations(inputs: Any, continuations: Sequence[Sequence[int]], pad: int) -> Any:
    """``inputs`` (padded on the right, ``input_ids`` (rows, length)) with each row's continuation behind its prompt.

    All tensors of that shape grow alike: the mask by ones, ``input_ids`` by the tokens and then ``pad``, others (token
    types) by zeros; and of Llama 3.2 Vision, which images each token sees, by what the prompt's last token sees.
    """
    mask = inputs["attention_mask"]
    lengths = mask.sum(dim=1).tolist()
    rows, length = mask.shape
    longest = max(prompt + len(tokens) for prompt, tokens in zip(lengths, continuations, strict=True))
    for name, tensor in list(inputs.items()):
        per_token = isinstance(tensor, torch.Tensor) and tensor.shape == mask.shape
        if not per_token and name != "cross_attention_mask":
            continue
        size = (rows, max(longest, length), *tensor.shape[2:])
        grown = tensor.new_full(size, pad if name == "input_ids" else 0)
        grown[:, :length] = tensor
        for row, (prompt, tokens) in enumerate(zip(lengths, continuations, strict=True)):
            end = prompt + len(tokens)
            if name == "input_ids":
                grown[row, prompt:end] = torch.tensor(tokens, dtype=tensor.dtype)
                grown[row, end:] = pad
            elif name == "attention_mask":
                grown[row, prompt:end] = 1
            elif not per_token:
                grown[row, prompt:end] = tensor[row, prompt - 1]
        inputs[name] = grown[:, :longest]
    return inputs


@torch.inference_mode()
def score_continuations(
    model: Any, inputs: Mapping[str, Any], continuations: Sequence[Sequence[int]]
) -> list[ContinuationScore]:
    """Scores what :func:`append_continuations` put into ``inputs``, which are on the model's device."""
    ends = inputs["attention_mask"].sum(dim=1).tolist()
    width = inputs["input_ids"].shape[1]
    first = min(end - len(tokens) for end, tokens in zip(ends, continuations, strict=True)) - 1
    options = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = width - first  # the prompts' logits would be most of the memory
    logits = model(**inputs, use_cache=False, **options).logits
    offset = width - logits.shape[1]
    scores = []
    for row, (end, tokens) in enumerate(zip(ends, continuations, strict=True)):
        # The token at a place is predicted by the logits one place before it.
        start = end - len(tokens) - 1 - offset
        ahead = torch.log_softmax(logits[row, start : start + len(tokens)].float(), dim=-1)
        wanted = torch.tensor(tokens, device=ahead.device)
        total = ahead.gather(1, wanted[:, None]).sum()
        scores.append(ContinuationScore(float(total), bool((ahead.argmax(dim=-1) == wanted).all())))
    return scores

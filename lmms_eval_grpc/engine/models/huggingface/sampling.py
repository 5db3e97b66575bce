"""Sampling that depends on the seed and the request alone, and not on what else is in its batch.

transformers draws for a whole batch from one generator, so that a sampled answer changes with the batch's size. Here
each request has random numbers of its own, and the token that they choose is made the only possible one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    LogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def make_warpers(config: GenerationConfig) -> list[Any]:
    """What narrows the choice at each step, in transformers' order; None and neutral values narrow nothing."""
    warpers: list[Any] = []
    if config.temperature not in (None, 1.0):
        warpers.append(TemperatureLogitsWarper(float(config.temperature)))
    if config.top_k:
        warpers.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1.0:
        warpers.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        warpers.append(MinPLogitsWarper(config.min_p))
    if config.typical_p is not None and config.typical_p < 1.0:
        warpers.append(TypicalLogitsWarper(config.typical_p))
    if config.epsilon_cutoff:
        warpers.append(EpsilonLogitsWarper(config.epsilon_cutoff))
    if config.eta_cutoff:
        warpers.append(EtaLogitsWarper(config.eta_cutoff))
    return warpers


def request_seed(draw: str, prompt: str) -> int:
    """Of a request's random numbers: from what names them, and its text."""
    text = f"{draw}\0{prompt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


class OwnChoice(LogitsProcessor):  # type: ignore[misc]
    """Draws one token per row and leaves no other; greedy decoding then takes it. To be the last processor."""

    def __init__(self, seeds: Sequence[int], prompt_length: int, max_new_tokens: int, device: torch.device) -> None:
        self.prompt_length = prompt_length
        rows = [
            torch.rand(max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        self.uniform = torch.stack(rows).to(device, torch.float32)
        """(rows, max_new_tokens), in [0, 1]."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.prompt_length
        cumulative = torch.softmax(scores.float(), dim=-1).cumsum(dim=-1)
        # Below the whole sum, and "right": the token found is the first to exceed, so one of no probability never is.
        wanted = self.uniform[:, step : step + 1].clamp(max=1 - 1e-6) * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, wanted, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

"""Ending a generation where a stop string appears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria


class StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of a batch for itself as soon as one of the stop strings stands in what it generated.

    Works on text, because a stop string may be spread over tokens in many ways or end in the middle of one. Only the
    end of each row is decoded: a string that appears now ends in the newest token, and no token is shorter than a byte.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt_length: int) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        self.prompt_length = prompt_length
        # One token more than the longest stop string has bytes: decoders may drop a space at the very start.
        self.window = max((len(stop.encode()) for stop in self.stops), default=0) + 1

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        start = max(self.prompt_length, input_ids.shape[1] - self.window)
        endings = self.tokenizer.batch_decode(
            input_ids[:, start:], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        done = [any(stop in ending for stop in self.stops) for ending in endings]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

"""Ending a generation where a stop string appears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

_INCOMPLETE = "\ufffd"
"""What a token decodes to that ends or begins in the middle of a character."""


class StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of a batch for itself as soon as one of the stop strings stands in what it generated.

    Works on text, because a stop string may be spread over tokens in many ways or end in the middle of one. Only the
    end of each row is decoded: a string that appears now ends in the newest token, and no token is shorter than a byte.
    And only where the newest token has the last character of a stop string in it, which few have.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt_length: int) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        self.prompt_length = prompt_length
        # One token more than the longest stop string has bytes: decoders may drop a space at the very start.
        self.window = max((len(stop.encode()) for stop in self.stops), default=0) + 1
        self._last_characters = {stop[-1] for stop in self.stops}
        if not all(character.isascii() for character in self._last_characters):
            # Others are several bytes, of which the newest token may have some only.
            self._last_characters.add(_INCOMPLETE)
        self._may_end: dict[int, bool] = {}
        """By token, whether a stop string may end in it; of the tokens seen so far."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        newest = input_ids[:, -1].tolist()
        self._look_at([token for token in set(newest) if token not in self._may_end])
        rows = [row for row, token in enumerate(newest) if self._may_end[token]]
        done = torch.zeros(len(newest), dtype=torch.bool)
        if rows:
            start = max(self.prompt_length, input_ids.shape[1] - self.window)
            endings = self._decode(input_ids[rows, start:].tolist())
            done[rows] = torch.tensor([any(stop in ending for stop in self.stops) for ending in endings])
        return done.to(input_ids.device)

    def _look_at(self, tokens: Sequence[int]) -> None:
        if not tokens:
            return
        # Twice in a row, because decoders may drop a space at the very start.
        for token, text in zip(tokens, self._decode([[token, token] for token in tokens]), strict=True):
            self._may_end[token] = not self._last_characters.isdisjoint(text)

    def _decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

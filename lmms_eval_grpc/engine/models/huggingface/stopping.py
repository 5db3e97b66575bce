"""Ending a generation where a stop string appears."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

_INCOMPLETE = "\ufffd"
"""What a token decodes to that ends or begins in the middle of a character."""


class StopVocabulary:
    """What a tokenizer's tokens have to do with some stop strings. To be kept for as long as the tokenizer is.

    A stop string may end in the tokens that have the last character of one in them. Each is looked at once, when it
    first is a batch's newest: a vocabulary has more tokens than most models ever say.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stop for stop in stops if stop)
        # One token more than the longest stop string has bytes: decoders may drop a space at the very start.
        self.window = max((len(stop.encode()) for stop in self.stops), default=0) + 1
        """Tokens at a text's end that hold whatever stop string ends there: none that shows is shorter than a byte."""
        self._last_characters = {stop[-1] for stop in self.stops}
        if not all(character.isascii() for character in self._last_characters):
            # Others are several bytes, of which the newest token may have some only.
            self._last_characters.add(_INCOMPLETE)
        self._may_end: dict[int, bool] = {}
        self._hidden: set[int] = set()
        """Those that no text shows: special ones, and numbers that the tokenizer, unlike the model, does not have."""
        self._bytes = _byte_tokens(tokenizer)

    def rows_to_read(self, newest: Sequence[int]) -> list[int]:
        """The rows, by the newest token of each, whose text may have come to a stop string just now."""
        unknown = set(newest).difference(self._may_end)
        if unknown:
            self._look_at(sorted(unknown))
        may_end = self._may_end
        return [row for row, token in enumerate(newest) if may_end[token]]

    def find_start(self, tokens: Sequence[int]) -> int:
        """Where to begin reading so as not to miss a stop string at the end of ``tokens``; 0 where more may be needed.

        Hidden tokens do not count, and a run of single bytes is not cut: it is text as a whole or not at all.
        """
        shown = 0
        for place in range(len(tokens) - 1, 0, -1):
            shown += tokens[place] not in self._hidden
            if shown >= self.window and tokens[place] not in self._bytes:
                return place
        return 0

    def are_stopped(self, endings: Iterable[Sequence[int]]) -> list[bool]:
        """Whether a stop string stands in the text of each row of tokens."""
        return [any(stop in text for stop in self.stops) for text in self._decode(list(endings))]

    def _look_at(self, tokens: Sequence[int]) -> None:
        # Twice in a row, because decoders may drop a space at the very start.
        for token, text in zip(tokens, self._decode([[token, token] for token in tokens]), strict=True):
            self._may_end[token] = not self._last_characters.isdisjoint(text)
            if not text:
                self._hidden.add(token)

    def _decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts


class StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of a batch for itself as soon as one of the stop strings stands in what it generated.

    Works on text, because a stop string may be spread over tokens in many ways or end in the middle of one. Only the
    end of each row is decoded, and only where the newest token may end a stop string, as few do.
    """

    def __init__(self, vocabulary: StopVocabulary, prompt_length: int) -> None:
        self.vocabulary = vocabulary
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        rows = self.vocabulary.rows_to_read(input_ids[:, -1].tolist())
        done = torch.zeros(len(input_ids), dtype=torch.bool)
        if rows:
            done[rows] = torch.tensor(self.vocabulary.are_stopped(self._endings(input_ids, rows)))
        return done.to(input_ids.device)

    def _endings(self, input_ids: torch.Tensor, rows: Sequence[int]) -> list[list[int]]:
        width = 2 * self.vocabulary.window
        endings: list[list[int]] = []
        for row, tail in zip(
            rows, input_ids[rows, max(self.prompt_length, input_ids.shape[1] - width) :].tolist(), strict=True
        ):
            start = self.vocabulary.find_start(tail)
            if start == 0 and len(tail) == width:
                tail = input_ids[row, self.prompt_length :].tolist()
                start = self.vocabulary.find_start(tail)
            endings.append(tail[start:])
        return endings


def _byte_tokens(tokenizer: Any) -> frozenset[int]:
    """Tokens such as ``<0x0A>`` that stand for one byte, for characters that the vocabulary lacks."""
    names = [f"<0x{value:02X}>" for value in range(256)]
    numbers = tokenizer.convert_tokens_to_ids(names)
    known = [(name, number) for name, number in zip(names, numbers, strict=True) if isinstance(number, int)]
    found = tokenizer.convert_ids_to_tokens([number for _, number in known])
    return frozenset(number for (name, number), token in zip(known, found, strict=True) if token == name)

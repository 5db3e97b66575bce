"""Stop strings end a row exactly when one of them stands in its text, whatever the tokenizer makes of characters."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lmms_eval_grpc.engine.models.huggingface.stopping import StopStrings

TEXTS = [
    "The answer is (B).\n\nBecause the cat, as one can see, is sitting.\n",
    "Größe: 3,5 m – nicht 4 m.\n\n日本語の答え。 Ünïcode 😀😀 ends.\n",
    "a  b   c\n \n\n x = 1;  y = 2;\n",
] * 4
STOPS = ["\n\n", " ", ".", "é", "語", "😀", "is", ").\n", "  ", "；", "ß"]


def byte_level() -> Tokenizer:
    """As GPT-2's and Qwen's: tokens are bytes and merges of them, and may begin or end within a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return tokenizer


def sentence_pieces() -> Tokenizer:
    """As Llama's: a space is part of the piece behind it, and the first is dropped."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=160, special_tokens=["<unk>"]))
    return tokenizer


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def first_end(tokens: Sequence[int], stops: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> int | None:
    """After how many tokens one of the stop strings stands in the whole text; None: it never does."""
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if any(stop in text for stop in stops):
            return count
    return None


@pytest.mark.parametrize("make", [byte_level, sentence_pieces])
def test_rows_end_where_the_text_has_a_stop_string(make: object) -> None:
    tokenizer = wrapped(make())  # type: ignore[operator]
    generator = random.Random(7)
    ended = 0
    for _ in range(60):
        stops = generator.sample(STOPS, generator.randint(1, 3))
        prompt = [generator.randrange(len(tokenizer)) for _ in range(3)]
        rows = []
        for _ in range(5):
            text = generator.choice(TEXTS)
            tokens = tokenizer(text[generator.randrange(len(text)) :])["input_ids"]
            noise = [generator.randrange(len(tokenizer)) for _ in range(24)]
            rows.append((tokens[: generator.randint(0, 20)] + noise)[:24])
        criterion = StopStrings(tokenizer, stops, len(prompt))
        found: list[int | None] = [None] * len(rows)
        for count in range(1, 25):
            done = criterion(torch.tensor([prompt + row[:count] for row in rows]), None)
            for index in torch.nonzero(done).flatten().tolist():
                found[index] = found[index] or count
        expected = [first_end(row, stops, tokenizer) for row in rows]
        assert found == expected, stops
        ended += sum(count is not None for count in expected)
    assert 60 < ended < 300

"""Stop strings end a row exactly when one of them stands in its text, whatever the tokenizer makes of characters."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lmms_eval_grpc.engine.models.huggingface.stopping import StopStrings, StopVocabulary

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


def byte_fallback() -> Tokenizer:
    """As Llama 2's: what the vocabulary lacks, line ends among it, is spelt in tokens of one byte each."""
    bytes_first = ["<unk>", *(f"<0x{value:02X}>" for value in range(256))]
    pieces = ["▁", "▁is", "a", "b", "is", ".", ")", "▁The", "▁cat", "t", "s", "ing"]
    vocabulary = {piece: number for number, piece in enumerate([*bytes_first, *pieces])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
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


def ends_found(
    rows: Sequence[Sequence[int]], stops: Sequence[str], tokenizer: PreTrainedTokenizerFast, prompt: Sequence[int] = ()
) -> list[int | None]:
    """After how many tokens the criterion ends each row, all rows in one batch."""
    criterion = StopStrings(StopVocabulary(tokenizer, stops), len(prompt))
    found: list[int | None] = [None] * len(rows)
    for count in range(1, max(map(len, rows)) + 1):
        done = criterion(torch.tensor([[*prompt, *row[:count]] for row in rows]), None)
        for index in torch.nonzero(done).flatten().tolist():
            found[index] = found[index] or count
    return found


@pytest.mark.parametrize("make", [byte_level, sentence_pieces, byte_fallback])
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
        found = ends_found(rows, stops, tokenizer, prompt)
        expected = [first_end(row, stops, tokenizer) for row in rows]
        assert found == expected, stops
        ended += sum(count is not None for count in expected)
    assert 60 < ended < 300


def test_a_stop_string_ends_within_a_merged_token() -> None:
    """No token of this vocabulary is a semicolon alone, or ends with one."""
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, ";x": 2, "y;x": 3}, [], unk_token="a"))
    tokenizer.decoder = decoders.Fuse()
    rows = [[0, 1, 2, 0], [0, 1, 3, 0], [1, 1, 1, 1]]
    assert ends_found(rows, ["b;"], wrapped(tokenizer)) == [3, None, None]
    assert ends_found(rows, [";"], wrapped(tokenizer)) == [3, 3, None]
    assert StopVocabulary(wrapped(tokenizer), ["b;"]).rows_to_read([0, 1, 2, 3]) == [2, 3]


def test_bytes_of_their_own_spell_stop_strings() -> None:
    tokenizer = wrapped(byte_fallback())
    line = tokenizer.convert_tokens_to_ids("<0x0A>")
    word = [tokenizer.convert_tokens_to_ids(f"<0x{value:02X}>") for value in "語".encode()]
    rows = [[*word, *word, line, line], [*word, *word[:2], line, line, line], [line, *word, line, *word, line]]
    expected = [first_end(row, ["\n\n"], tokenizer) for row in rows]
    assert expected == [8, None, None]  # half a character makes the whole run of bytes unreadable
    for row, end in zip(rows, expected, strict=True):
        assert ends_found([row], ["\n\n"], tokenizer) == [end]
    assert ends_found([rows[0]], ["語語"], tokenizer) == [6]
    assert StopVocabulary(tokenizer, ["語"]).rows_to_read([*word, line]) == [0, 1, 2]


def test_special_tokens_within_a_stop_string_do_not_show() -> None:
    tokenizer = wrapped(byte_level())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", "<b>"]})
    hidden = tokenizer.convert_tokens_to_ids(["<a>", "<b>"])
    (line,) = tokenizer("\n")["input_ids"]
    row = [line, *hidden * 20, line, hidden[0]]
    assert ends_found([row], ["\n\n"], tokenizer) == [len(row) - 1] == [first_end(row, ["\n\n"], tokenizer)]
    assert StopVocabulary(tokenizer, ["a>", "\n"]).rows_to_read([*hidden, line]) == [2]


def test_numbers_that_only_the_model_has_do_not_show() -> None:
    """Embeddings are often larger than the vocabulary, rounded up."""
    tokenizer = wrapped(byte_level())
    (line,) = tokenizer("\n")["input_ids"]
    row = [line, *range(len(tokenizer), len(tokenizer) + 20), line, line]
    assert ends_found([row], ["\n\n"], tokenizer) == [len(row) - 1] == [first_end(row, ["\n\n"], tokenizer)]


def test_each_token_is_decoded_once_for_all_batches() -> None:
    tokenizer = wrapped(byte_level())
    decoded: list[int] = []

    class Watched(StopVocabulary):
        def _look_at(self, tokens: Sequence[int]) -> None:
            decoded.extend(tokens)
            super()._look_at(tokens)

    vocabulary = Watched(tokenizer, ["."])
    for prompt_length in (0, 3):
        StopStrings(vocabulary, prompt_length)(torch.tensor([[5, 6, 7, 5], [5, 6, 7, 8], [5, 6, 7, 5]]), None)
    assert decoded == [5, 8]

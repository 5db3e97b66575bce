"""A tiny Qwen2.5-VL that learns given answers by heart; for scripts/score_parity, in lmms-eval's environment.

Made there because what transformers 4 saves, transformers 5 reads too, as it does published checkpoints.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

MOST_SECONDS = 180
GOOD_LOSS = 0.01
"""Per token of an answer: then nearly every token is certain, and rounding to bfloat16 changes none."""

_SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<pad>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ item['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Example = tuple[list[dict[str, Any]], str]
"""Messages in lmms-eval's form, and the answer."""


def train(examples: Sequence[Example], folder: Path, seed: int = 0) -> dict[str, Any]:
    """Saves a checkpoint into ``folder``; how long it took and how far it came."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    started = time.monotonic()
    processor = build_processor(examples)
    model = build_model(processor.tokenizer)
    prepared = [prepare(processor, messages, answer) for messages, answer in examples]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)
    generator = random.Random(seed)
    steps, loss = 0, float("inf")
    while loss > GOOD_LOSS and time.monotonic() - started < MOST_SECONDS:
        generator.shuffle(prepared)
        losses = []
        for start in range(0, len(prepared), 16):
            steps += 1
            for group in optimizer.param_groups:
                spent = (time.monotonic() - started) / MOST_SECONDS
                group["lr"] = 3e-3 * min(1.0, steps / 30) * max(0.05, 1.0 - spent)
            batch = collate(prepared[start : start + 16], processor.tokenizer.pad_token_id)
            optimizer.zero_grad()
            value = model(**batch).loss
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(float(value.detach()))
        loss = sum(losses) / len(losses)
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return {"seconds": time.monotonic() - started, "steps": steps, "loss": loss}


def build_processor(examples: Sequence[Example]) -> Qwen2_5_VLProcessor:
    """With a tokenizer that knows the examples' words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    # As every Qwen2 tokenizer cuts: transformers 5 does so whatever the checkpoint's file says.
    cut = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = [item["text"] for messages, _ in examples for item in messages[0]["content"] if item["type"] == "text"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*texts, *(answer for _, answer in examples)], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    fast = Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    limits = {"min_pixels": 56 * 56, "max_pixels": 224 * 224}
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**limits), fast, Qwen2VLVideoProcessor(**limits), chat_template=_TEMPLATE
    )


def build_model(tokenizer: Qwen2TokenizerFast, hidden: int = 96, layers: int = 2) -> Qwen2_5_VLForConditionalGeneration:
    """Of random weights; ``hidden`` and ``layers`` of the text tower, ``hidden`` a multiple of 24."""
    ids = dict(zip(_SPECIAL, tokenizer.convert_tokens_to_ids(_SPECIAL), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": hidden * 8 // 3,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 24,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 4, 4]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<pad>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": hidden,
            "num_heads": 2,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<pad>"]
    return model


def prepare(processor: Any, messages: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    """One example as a row: the prompt's and the answer's tokens, and the pixels."""
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    images = [item["url"] for item in messages[0]["content"] if item["type"] == "image"]
    inputs = processor(text=[prompt], images=images, return_tensors="pt")
    said = processor.tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
    asked = inputs["input_ids"][0].tolist()
    return {
        "input_ids": asked + said,
        "labels": [-100] * len(asked) + said,
        "pixel_values": inputs["pixel_values"],
        "image_grid_thw": inputs["image_grid_thw"],
    }


def collate(rows: Sequence[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)

    def filled(key: str, value: int) -> torch.Tensor:
        return torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows])

    return {
        "input_ids": filled("input_ids", pad),
        "labels": filled("labels", -100),
        "attention_mask": torch.tensor(
            [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
        ),
        "pixel_values": torch.cat([row["pixel_values"] for row in rows]),
        "image_grid_thw": torch.cat([row["image_grid_thw"] for row in rows]),
    }

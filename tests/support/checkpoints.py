"""Tiny checkpoints of real model families, with random weights, made offline in a fraction of a second each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmms_eval_grpc.engine.models.huggingface.processor import without_video

CLIENTS = Path(__file__).resolve().parents[2] / "clients" / "python"
if str(CLIENTS) not in sys.path:
    sys.path.insert(0, str(CLIENTS))

import tiny_vlm  # noqa: E402

HIDDEN = 32

_TEMPLATE = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{% for item in message['content'] %}}"
    "{{% if item['type'] == 'image' %}}{image}{{% else %}}{{{{ item['text'] }}}}{{% endif %}}"
    "{{% endfor %}}<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)


def _tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens a family wants; ``named`` become attributes of the tokenizer."""
    tokens = ["<|im_start|>", "<|im_end|>", "<pad>", *special, *named.values()]
    alphabet = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
    )


def _text(kind: str, tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


_VISION = {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def _llava() -> tuple[Any, Any]:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = _tokenizer("<image>")
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, **_VISION},
        text_config=_text("llama", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    processor = transformers.LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE.format(image="<image>\n"),
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def _llava_onevision() -> tuple[Any, Any]:
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    tokenizer = _tokenizer("<image>", "<video>")
    config = transformers.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **_VISION},
        text_config=_text("qwen2", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[32, 32], [32, 64], [64, 32]],
        vision_feature_layer=-1,
    )
    processor = without_video(transformers.LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil(
            size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 32], [32, 64], [64, 32]]
        ),
        tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_TEMPLATE.format(image="<image>\n"),
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def _idefics3() -> tuple[Any, Any]:
    processor = tiny_vlm.build_processor()
    return tiny_vlm.build_model(processor), processor


def _qwen_parts() -> tuple[PreTrainedTokenizerFast, dict[str, int], str]:
    tokenizer = _tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }
    return tokenizer, ids, _TEMPLATE.format(image="<|vision_start|><|image_pad|><|vision_end|>")


def _qwen(version: str) -> tuple[Any, Any]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer, ids, template = _qwen_parts()
    patch = 16 if version == "Qwen3VL" else 14
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": patch, "spatial_merge_size": 2}
    if version == "Qwen2VL":
        vision |= {"embed_dim": HIDDEN, "hidden_size": HIDDEN, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": HIDDEN, "intermediate_size": 64, "out_hidden_size": HIDDEN}
    if version == "Qwen2_5_VL":
        vision |= {"fullatt_block_indexes": [1], "window_size": 56}
    if version == "Qwen3VL":
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        rope["mrope_interleaved"] = True
    kind = {"Qwen2VL": "qwen2_vl_text", "Qwen2_5_VL": "qwen2_5_vl_text", "Qwen3VL": "qwen3_vl_text"}[version]
    text = _text(kind, tokenizer, rope_parameters=rope, head_dim=HIDDEN // 2)
    if version != "Qwen3VL":
        del text["head_dim"]
    config = getattr(transformers, f"{version}Config")(text_config=text, vision_config=vision, **ids)
    processor = without_video(getattr(transformers, f"{version}Processor"))(
        Qwen2VLImageProcessorPil(
            patch_size=patch, size={"shortest_edge": (4 * patch) ** 2, "longest_edge": (8 * patch) ** 2}
        ),
        tokenizer,
        chat_template=template,
    )
    return getattr(transformers, f"{version}ForConditionalGeneration")(config), processor


def _smolvlm() -> tuple[Any, Any]:
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tokenizer = _tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    config = transformers.SmolVLMConfig(
        vision_config={"image_size": 16, "patch_size": 4, **_VISION},
        text_config=_text("llama", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    processor = without_video(transformers.SmolVLMProcessor)(
        SmolVLMImageProcessorPil(
            size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, do_image_splitting=False
        ),
        tokenizer,
        None,
        image_seq_len=4,
        chat_template=_TEMPLATE.format(image="<image>"),
    )
    return transformers.SmolVLMForConditionalGeneration(config), processor


def _internvl() -> tuple[Any, Any]:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = _tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    config = transformers.InternVLConfig(
        vision_config={"image_size": 32, "patch_size": 8, **_VISION},
        text_config=_text("qwen2", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    processor = without_video(transformers.InternVLProcessor)(
        GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=False),
        tokenizer,
        image_seq_length=4,
        chat_template=_TEMPLATE.format(image="<IMG_CONTEXT>\n"),
    )
    return transformers.InternVLForConditionalGeneration(config), processor


def _gemma3() -> tuple[Any, Any]:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokenizer = _tokenizer(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    config = transformers.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **_VISION},
        text_config=_text("gemma3_text", tokenizer, head_dim=16, query_pre_attn_scalar=16),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    processor = transformers.Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer,
        image_seq_length=4,
        chat_template=_TEMPLATE.format(image="<start_of_image>"),
    )
    return transformers.Gemma3ForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "gemma3": _gemma3,
    "idefics3": _idefics3,
    "internvl_hf": _internvl,
    "llava_hf": _llava,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": lambda: _qwen("Qwen2VL"),
    "qwen2_5_vl": lambda: _qwen("Qwen2_5_VL"),
    "qwen3_vl": lambda: _qwen("Qwen3VL"),
    "smolvlm": _smolvlm,
}
"""By the name that users type: builds a model with random weights and its processor."""


def build_checkpoint(family: str, folder: Path, seed: int = 0) -> Path:
    """Saves a tiny checkpoint of the family into ``folder``, as ``save_pretrained`` of both its parts would."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[family]()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if family.startswith("qwen"):
        # Published checkpoints bring one; transformers refuses to read it where torchvision is not installed.
        kind = "Qwen3VLVideoProcessor" if family == "qwen3_vl" else "Qwen2VLVideoProcessor"
        (folder / "video_preprocessor_config.json").write_text(json.dumps({"video_processor_type": kind}))
    return folder


def build_trained_checkpoints(folder: Path, seed: int = 0) -> dict[int, Path]:
    """Trains the tiny Idefics3 on digits for a quarter of a minute; its checkpoints by training step."""
    import train_digits

    paths = train_digits.train(folder, seed=seed)
    return {int(path.name.removeprefix("checkpoint-")): path for path in paths}

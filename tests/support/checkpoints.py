"""Tiny checkpoints of real model families, with random weights, made offline in a fraction of a second each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmms_eval_grpc.engine.models.huggingface.processor import with_video
from lmms_eval_grpc.engine.models.huggingface.video import make_video_processor

CLIENTS = Path(__file__).resolve().parents[2] / "clients" / "python"
if str(CLIENTS) not in sys.path:
    sys.path.insert(0, str(CLIENTS))

import tiny_vlm  # noqa: E402

HIDDEN = 32

_TEMPLATE = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{% for item in message['content'] %}}"
    "{{% if item['type'] == 'image' %}}{image}{{% elif item['type'] == 'video' %}}{video}"
    "{{% elif item['type'] == 'audio' %}}{audio}{{% else %}}{{{{ item['text'] }}}}{{% endif %}}"
    "{{% endfor %}}<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)


def _template(image: str = "", video: str = "", audio: str = "") -> str:
    """A chat template with these placeholders."""
    return _TEMPLATE.format(image=image, video=video, audio=audio)


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
        chat_template=_template("<image>\n"),
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
    video = make_video_processor("LlavaOnevisionVideoProcessor", size={"height": 32, "width": 32})
    processor = with_video(transformers.LlavaOnevisionProcessor, video)(
        LlavaOnevisionImageProcessorPil(
            size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 32], [32, 64], [64, 32]]
        ),
        tokenizer,
        video,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_template("<image>\n", "<video>\n"),
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
    pads = ("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>")
    return tokenizer, ids, _template(*pads)


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
    size = {"shortest_edge": (4 * patch) ** 2, "longest_edge": (8 * patch) ** 2}
    video = make_video_processor(
        "Qwen3VLVideoProcessor" if version == "Qwen3VL" else "Qwen2VLVideoProcessor",
        patch_size=patch,
        # Of Qwen3-VL's it is the size of all frames together.
        size={"shortest_edge": (4 * patch) ** 2, "longest_edge": 16 * (8 * patch) ** 2},
        cap_pixels_per_frame=False,
    )
    processor = with_video(getattr(transformers, f"{version}Processor"), video)(
        Qwen2VLImageProcessorPil(patch_size=patch, size=size), tokenizer, video, chat_template=template
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
    size = {"longest_edge": 16}
    video = make_video_processor("SmolVLMVideoProcessor", size=size, max_image_size=size)
    processor = with_video(transformers.SmolVLMProcessor, video)(
        SmolVLMImageProcessorPil(size=size, max_image_size=size, do_image_splitting=False),
        tokenizer,
        video,
        image_seq_len=4,
        chat_template=_template("<image>"),
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
    video = make_video_processor("InternVLVideoProcessor", size={"height": 32, "width": 32})
    processor = with_video(transformers.InternVLProcessor, video)(
        GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=False),
        tokenizer,
        video,
        image_seq_length=4,
        chat_template=_template("<IMG_CONTEXT>\n", "<video>\n"),
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
        chat_template=_template("<start_of_image>"),
    )
    return transformers.Gemma3ForConditionalGeneration(config), processor


def _idefics2() -> tuple[Any, Any]:
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    tokenizer = _tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>")
    config = transformers.Idefics2Config(
        vision_config={"image_size": 32, "patch_size": 8, **_VISION},
        perceiver_config={
            "hidden_size": HIDDEN,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        text_config=_text("mistral", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = transformers.Idefics2Processor(
        Idefics2ImageProcessorPil(size={"shortest_edge": 24, "longest_edge": 32}, do_image_splitting=False),
        tokenizer,
        image_seq_len=4,
        chat_template=_template("<image>"),
    )
    return transformers.Idefics2ForConditionalGeneration(config), processor


def _llama_vision() -> tuple[Any, Any]:
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    # The image token has no embedding of its own: it stands behind the vocabulary that answers come from.
    tokenizer = _tokenizer("<|begin_of_text|>", "<|image|>")
    tokenizer.bos_token = "<|begin_of_text|>"
    text = _text("mllama_text_model", tokenizer, cross_attention_layers=[1])
    text |= {"vocab_size": len(tokenizer) - 1, "bos_token_id": tokenizer.bos_token_id}
    config = transformers.MllamaConfig(
        vision_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 2 * HIDDEN,
            "image_size": 32,
            "patch_size": 8,
            "max_num_tiles": 4,
            "intermediate_layers_indices": [1],
        },
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    processor = transformers.MllamaProcessor(
        MllamaImageProcessorPil(size={"height": 32, "width": 32}, max_image_tiles=4),
        tokenizer,
        chat_template="<|begin_of_text|>" + _template("<|image|>"),
    )
    return transformers.MllamaForConditionalGeneration(config), processor


_AUDIO = {
    "num_mel_bins": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "d_model": HIDDEN,
    "max_source_positions": 50,
}
"""Of one second at most."""


def _feature_extractor() -> transformers.WhisperFeatureExtractor:
    return transformers.WhisperFeatureExtractor(feature_size=16, sampling_rate=16000, chunk_length=1)


def _qwen2_audio() -> tuple[Any, Any]:
    tokenizer = _tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    config = transformers.Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **_AUDIO},
        text_config=_text("qwen2", tokenizer),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    processor = transformers.Qwen2AudioProcessor(
        _feature_extractor(), tokenizer, chat_template=_template(audio="<|audio_bos|><|AUDIO|><|audio_eos|>\n")
    )
    return transformers.Qwen2AudioForConditionalGeneration(config), processor


def _qwen2_5_omni() -> tuple[Any, Any]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    named = {
        "image_token": "<|IMAGE|>",
        "audio_token": "<|AUDIO|>",
        "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    tokenizer = _tokenizer(**named)
    vision = {"hidden_size": HIDDEN, "intermediate_size": 64, "out_hidden_size": HIDDEN, "depth": 2, "num_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    config = transformers.Qwen2_5OmniThinkerConfig(
        vision_config={**vision, "patch_size": 14, "fullatt_block_indexes": [1], "window_size": 56},
        audio_config={**_AUDIO, "n_window": 25, "output_dim": HIDDEN},
        text_config=_text("qwen2_5_omni_text", tokenizer, rope_parameters=rope),
        **{f"{kind}_token_index": tokenizer.convert_tokens_to_ids(f"<|{kind.upper()}|>") for kind in _OMNI_KINDS},
        audio_start_token_id=tokenizer.convert_tokens_to_ids("<|audio_bos|>"),
        audio_end_token_id=tokenizer.convert_tokens_to_ids("<|audio_eos|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_bos|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_eos|>"),
    )
    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    video = make_video_processor("Qwen2VLVideoProcessor", size=size, cap_pixels_per_frame=False)
    processor = with_video(transformers.Qwen2_5OmniProcessor, video)(
        Qwen2VLImageProcessorPil(size=size),
        video,
        _feature_extractor(),
        tokenizer,
        chat_template=_template(
            "<|vision_bos|><|IMAGE|><|vision_eos|>",
            "<|vision_bos|><|VIDEO|><|vision_eos|>",
            "<|audio_bos|><|AUDIO|><|audio_eos|>",
        ),
    )
    return transformers.Qwen2_5OmniThinkerForConditionalGeneration(config), processor


_OMNI_KINDS = ("image", "video", "audio")


def _text_only() -> tuple[Any, Any]:
    tokenizer = _tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    values = _text("llama", tokenizer)
    del values["model_type"]
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**values)), tokenizer


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "gemma3": _gemma3,
    "huggingface_text": _text_only,
    "idefics2": _idefics2,
    "idefics3": _idefics3,
    "internvl_hf": _internvl,
    "llama_vision": _llama_vision,
    "llava_hf": _llava,
    "llava_onevision": _llava_onevision,
    "qwen2_audio": _qwen2_audio,
    "qwen2_5_omni": _qwen2_5_omni,
    "qwen2_vl": lambda: _qwen("Qwen2VL"),
    "qwen2_5_vl": lambda: _qwen("Qwen2_5_VL"),
    "qwen3_vl": lambda: _qwen("Qwen3VL"),
    "smolvlm": _smolvlm,
}
"""By the name that users type: builds a model with random weights and its processor."""

SEEING = tuple(sorted(FAMILIES.keys() - {"huggingface_text", "qwen2_audio"}))
"""Families that read images."""


def build_checkpoint(family: str, folder: Path, seed: int = 0) -> Path:
    """Saves a tiny checkpoint of the family into ``folder``, as ``save_pretrained`` of both its parts would."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[family]()
    save_checkpoint(model, processor, folder)
    if family == "qwen2_5_omni":
        wrap_thinker(folder)
    return folder


def small_args(family: str) -> dict[str, int]:
    """Model arguments without which small pictures would become hundreds of tokens, as lmms-eval has it for Qwen."""
    patch = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16}.get(family)
    return {} if patch is None else {"min_pixels": (4 * patch) ** 2, "max_pixels": (8 * patch) ** 2}


def save_checkpoint(model: Any, processor: Any, folder: Path) -> None:
    tokenizer = getattr(processor, "tokenizer", processor)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def wrap_thinker(folder: Path) -> None:
    """Makes of the part that writes a whole Qwen2.5-Omni, as published: its weights under ``thinker``, and others."""
    weights = {f"thinker.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    weights |= {name: torch.zeros(2) for name in ("talker.codec_head.weight", "token2wav.bias")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    thinker = json.loads((folder / "config.json").read_text())
    config = transformers.Qwen2_5OmniConfig(thinker_config=thinker).to_dict()
    named = {"architectures": ["Qwen2_5OmniModel"], "dtype": thinker["dtype"]}
    (folder / "config.json").write_text(json.dumps({**config, **named}))


def build_trained_checkpoints(folder: Path, seed: int = 0) -> dict[int, Path]:
    """Trains the tiny Idefics3 on digits for a quarter of a minute; its checkpoints by training step."""
    import train_digits

    paths = train_digits.train(folder, seed=seed)
    return {int(path.name.removeprefix("checkpoint-")): path for path in paths}

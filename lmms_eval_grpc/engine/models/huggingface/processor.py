"""Loading a checkpoint's processor, and turning a batch of prompts and images into the model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING


def load_processor(pretrained: str, *, revision: str | None, trust_remote_code: bool) -> Any:
    """The checkpoint's processor, set to pad on the left, without its video part where that cannot be loaded.

    Raises whatever transformers raises, and ValueError for a processor without images or without a chat template.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        processor = AutoProcessor.from_pretrained(pretrained, **options)
    except (ImportError, OSError):
        # Video processors need torchvision even where images do not, and a trainer without torchvision saves none. A
        # model that reads images works without.
        processor_class = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(pretrained, **options)), None)
        if processor_class is None or "video_processor" not in processor_class.get_attributes():
            raise
        processor = without_video(processor_class).from_pretrained(pretrained, **options)
    if getattr(processor, "image_processor", None) is None:
        raise ValueError("it has no image processor (preprocessor_config.json)")
    if getattr(processor, "chat_template", None) is None:
        raise ValueError("it has no chat template (chat_template.jinja); an instruction-tuned checkpoint brings one")
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def without_video(processor_class: Any) -> Any:
    """A processor class of the same name that neither loads nor needs a video processor.

    Its constructor is the original one, with None for the video processor.
    """
    attributes = processor_class.get_attributes()
    kept = [name for name in attributes if "video" not in name]
    if attributes[: len(kept)] != kept:
        raise ImportError(f"{processor_class.__name__} takes its video processor before others; install torchvision")

    def get_attributes(cls: Any) -> list[str]:
        return kept

    def get_arguments(cls: Any, *args: Any, **kwargs: Any) -> list[Any]:
        found: list[Any] = processor_class._get_arguments_from_pretrained.__func__(cls, *args, **kwargs)
        return [*found, *[None] * (len(attributes) - len(kept))]

    body = {
        "get_attributes": classmethod(get_attributes),
        "_get_arguments_from_pretrained": classmethod(get_arguments),
        # SmolVLM's template code asks for these two even when there is no video.
        "video_processor": SimpleNamespace(num_frames=None, fps=None),
        "__module__": processor_class.__module__,
    }
    return type(processor_class.__name__, (processor_class,), body)


def set_pixel_bounds(processor: Any, min_pixels: int | None, max_pixels: int | None) -> bool:
    """Hands pixel bounds to an image processor that has its own (Qwen2-VL and its kin); False: it has none."""
    image_processor = processor.image_processor
    if "min_pixels" not in getattr(type(image_processor).valid_kwargs, "__annotations__", {}):
        return False
    size = dict(image_processor.size)
    if min_pixels is not None:
        size["shortest_edge"] = min_pixels
    if max_pixels is not None:
        size["longest_edge"] = max_pixels
    image_processor.size = type(image_processor.size)(**size)
    return True


def encode(processor: Any, prompts: Sequence[str], images: Sequence[Sequence[Any]], side: str = "left") -> Any:
    """Input tensors on the CPU, padded on the given side: ``input_ids`` is (prompts, longest prompt).

    Either every prompt has images or none has: image processors disagree on what an empty list among full ones means.
    """
    bos = processor.tokenizer.bos_token
    # A template that writes the beginning mark itself must not get a second one from the tokenizer.
    has_bos = bool(bos) and all(prompt.startswith(bos) for prompt in prompts)
    return processor(
        text=list(prompts),
        images=[list(own) for own in images] if any(images) else None,
        padding=True,
        padding_side=side,
        add_special_tokens=not has_bos,
        return_tensors="pt",
    )

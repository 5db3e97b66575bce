"""What a user may set of a Hugging Face model, and what follows from it for the media of requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.data.media.frames import FramePolicy, Sampling
from lmms_eval_grpc.engine.models.checkpoint_files import read_text
from lmms_eval_grpc.engine.models.entry import LoadSettings, ModelEntry
from lmms_eval_grpc.engine.models.huggingface.media import MediaOptions
from lmms_eval_grpc.engine.models.huggingface.processor import (
    audio_processor_of,
    modalities_of,
    set_image_options,
    set_pixel_bounds,
    video_processor_of,
)
from lmms_eval_grpc.engine.models.huggingface.video import is_patched, patch_factor

_MOST_FRAMES = 32
_MOST_FRAMES_BY_RATE = 768
"""The same where ``fps`` says how many."""

_SAMPLING: Mapping[str, Sampling] = {"internvl": "segments"}
"""By model type; others ``uniform``, and ``qwen_vl`` where videos are cut into patches."""

_LEAST: Mapping[str, int] = {
    **dict.fromkeys(("min_pixels", "min_patches"), 0),
    **dict.fromkeys(("max_pixels", "total_pixels", "max_patches", "max_new_tokens"), 1),
}
"""Of arguments that are numbers; those of frames are the frame policy's to check."""

_RECORDED = (
    *("min_pixels", "max_pixels", "total_pixels", "max_num_frames", "fps", "min_patches", "max_patches"),
    *("do_image_splitting", "interleave_visuals", "system_prompt", "reasoning_prompt", "enable_thinking"),
    *("max_new_tokens", "use_cache"),
)


@dataclass(frozen=True, slots=True)
class HuggingFaceOptions:
    """The arguments of the registry, checked, and where and how to run. One that a family does not have is unset."""

    pretrained: str
    device: str
    revision: str | None = None
    dtype: str = "auto"
    device_map: str | Mapping[str, Any] | None = None
    attn_implementation: str | None = None
    chat_template: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None
    max_num_frames: int | None = None
    fps: float | None = None
    min_patches: int | None = None
    max_patches: int | None = None
    do_image_splitting: bool | None = None
    interleave_visuals: bool = False
    system_prompt: str | None = None
    reasoning_prompt: str | None = None
    enable_thinking: bool | None = None
    max_new_tokens: int = 4096
    use_cache: bool = True
    strict_weights: bool = True
    trust_remote_code: bool = False
    batch_size: int | None = None
    max_batch_size: int | None = None
    model_types: tuple[str, ...] = ()
    text_only: bool = False

    @classmethod
    def of(cls, entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> HuggingFaceOptions:
        """Raises :class:`EvaluationError` ``INVALID_MODEL_ARGS`` for a number that cannot be meant."""
        given = dict(values)
        for name, least in _LEAST.items():
            if given.get(name) is not None and given[name] < least:
                raise EvaluationError("INVALID_MODEL_ARGS", f"{name} must be at least {least}, but is {given[name]!r}")
        if given.pop("use_flash_attention_2", False):
            given["attn_implementation"] = "flash_attention_2"
        for name in ("system_prompt", "reasoning_prompt"):
            if given.get(name):
                given[name] = read_text(given[name]).replace("\\n", "\n")
        return cls(
            **given,
            device=settings.device,
            batch_size=settings.batch_size,
            max_batch_size=settings.max_batch_size,
            model_types=entry.model_types,
            text_only=entry.modalities == ("text",),
        )

    @property
    def recorded(self) -> dict[str, Any]:
        """What answers depend on beside the checkpoint."""
        return {name: getattr(self, name) for name in _RECORDED}


def plan_media(options: HuggingFaceOptions, model_type: str, processor: Any) -> MediaOptions:
    """What this model makes of media, after telling its processor the bounds. Raises ``INVALID_MODEL_ARGS``."""
    chosen = {name: getattr(options, name) for name in ("min_patches", "max_patches", "do_image_splitting")}
    try:
        set_image_options(processor, {name: value for name, value in chosen.items() if value is not None})
    except ValueError as error:
        raise EvaluationError("INVALID_MODEL_ARGS", str(error)) from error
    native_bounds = set_pixel_bounds(processor, options.min_pixels, options.max_pixels)
    video_processor, audio_processor = video_processor_of(processor), audio_processor_of(processor)
    factor = patch_factor(video_processor) if video_processor is not None and is_patched(video_processor) else None
    sampling = _SAMPLING.get(model_type) or ("qwen_vl" if factor else "uniform")
    frames = options.max_num_frames
    if frames is None:
        frames = _MOST_FRAMES if options.fps is None else _MOST_FRAMES_BY_RATE
    try:
        policy = FramePolicy(frames, options.fps, sampling)
    except ValueError as error:
        raise EvaluationError("INVALID_MODEL_ARGS", str(error)) from error
    return MediaOptions(
        modalities=modalities_of(processor),
        policy=policy,
        min_pixels=options.min_pixels,
        max_pixels=options.max_pixels,
        total_pixels=options.total_pixels,
        fit_images=not native_bounds,
        native_video=video_processor is not None,
        images_or_video=video_processor is not None and "pixel_values" in video_processor.model_input_names,
        patch_factor=factor,
        sampling_rate=getattr(audio_processor, "sampling_rate", None),
        longest_sound=getattr(audio_processor, "n_samples", None),
    )

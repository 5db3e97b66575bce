"""Frames of videos as tensors, without torchvision: transformers' own video processors on plain torch.

transformers marks its video processors as in need of torchvision, of which they use no more than resizing and
normalizing. Here the classes themselves (patches, frame prompts, timestamps, padding) get those two from torch, by the
same formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
from transformers.video_processing_utils import BaseVideoProcessor

_MODES = {
    Image.Resampling.NEAREST: "nearest-exact",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
    Image.Resampling.LANCZOS: "lanczos",
}

Frames = npt.NDArray[np.uint8]
"""Frames × height × width × 3, RGB."""
_FITTED_TOGETHER = 16


def resize(pictures: torch.Tensor, height: int, width: int, resample: int = Image.Resampling.BICUBIC) -> torch.Tensor:
    """``pictures`` (… × channels × height × width) at another size, with antialiasing.

    As torchvision's ``v2.functional.resize``: 8-bit pictures are computed in whole numbers.
    """
    if tuple(pictures.shape[-2:]) == (height, width):
        return pictures
    flat = pictures.reshape(-1, *pictures.shape[-3:])
    mode = _MODES[Image.Resampling(resample)]
    smooth = {} if mode == "nearest-exact" else {"antialias": True, "align_corners": False}
    try:
        resized = torch.nn.functional.interpolate(flat, (height, width), mode=mode, **smooth)
    except NotImplementedError:  # Lanczos filters are younger than others
        resized = torch.stack([_by_pillow(picture, height, width) for picture in flat])
    return resized.reshape(*pictures.shape[:-2], height, width)


def _by_pillow(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """By a Lanczos filter: ``picture`` is 3 × height × width, 8-bit."""
    image = Image.fromarray(picture.permute(1, 2, 0).to(torch.uint8).numpy())
    return torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.LANCZOS))).permute(2, 0, 1)


def fit_frames(
    frames: Frames, factor: int, min_pixels: int | None, max_pixels: int | None, total_pixels: int | None = None
) -> Frames:
    """Frames scaled as the readers that Qwen's models come with do it: both sides multiples of ``factor``.

    Each frame gets at least ``min_pixels`` (unset: 128 · factor²) and at most ``max_pixels``, 768 · factor² and its
    share of ``total_pixels`` (unset: 90 % of 128,000 · factor²; two frames share a patch), but 1.05 · ``min_pixels`` in
    any case.
    """
    least = min_pixels or 128 * factor**2
    total = total_pixels or int(128_000 * factor**2 * 0.9)
    most = max(min(768 * factor**2, total * 2 / len(frames)), int(least * 1.05))
    height, width = smart_resize(
        *frames.shape[1:3], factor=factor, min_pixels=least, max_pixels=min(max_pixels or most, most)
    )
    fitted = np.empty((len(frames), height, width, 3), np.uint8)
    # Some at a time: single precision takes four times the memory, and a video may have hundreds of frames.
    for start in range(0, len(frames), _FITTED_TOGETHER):
        some = torch.from_numpy(np.ascontiguousarray(frames[start : start + _FITTED_TOGETHER])).permute(0, 3, 1, 2)
        # In single precision, as torchvision's older resize, which those readers call, does it with 8-bit pictures.
        resized = resize(some.float(), height, width).clamp_(0, 255).round_().to(torch.uint8)
        fitted[start : start + len(some)] = resized.permute(0, 2, 3, 1).numpy()
    return fitted


class PlainTorch(BaseVideoProcessor):  # type: ignore[misc]
    """To be put between a video processor and its base class."""

    def convert_to_rgb(self, video: torch.Tensor) -> torch.Tensor:
        return video  # frames are decoded to RGB

    def resize(
        self, image: torch.Tensor, size: Any, resample: Any = None, antialias: bool = True, **_: Any
    ) -> torch.Tensor:
        if not (size.height and size.width):
            raise ValueError(f"without torchvision, frames are resized to a height and a width, not to {size}")
        return resize(image, size.height, size.width, Image.Resampling.BILINEAR if resample is None else resample)

    def normalize(self, image: torch.Tensor, mean: Any, std: Any, **_: Any) -> torch.Tensor:
        mean, std = (torch.as_tensor(values, dtype=image.dtype, device=image.device) for values in (mean, std))
        normalized: torch.Tensor = (image - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
        return normalized


class _Qwen2VL(Qwen3VLVideoProcessor, PlainTorch):  # type: ignore[misc]
    """Qwen2-VL's, whose module cannot be imported without torchvision: Qwen3-VL's, but sized frame by frame."""

    size = {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}  # noqa: RUF012
    image_mean = (0.48145466, 0.4578275, 0.40821073)
    image_std = (0.26862954, 0.26130258, 0.27577711)
    patch_size = 14
    do_sample_frames = False
    fps = None

    def __init__(self, **values: Any) -> None:
        size = dict(values.pop("size", None) or self.size)
        for edge, name in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
            size[edge] = values.pop(name, None) or size.get(edge)
        super().__init__(size=size, **values)

    def resize(  # type: ignore[override]
        self, videos: torch.Tensor, size: Any, resample: Any, factor: int, **_: Any
    ) -> torch.Tensor:
        height, width = smart_resize(
            *videos.shape[-2:], factor=factor, min_pixels=size.shortest_edge, max_pixels=size.longest_edge
        )
        return resize(videos, height, width, Image.Resampling.BICUBIC if resample is None else resample)


_CLASSES: Mapping[str, type[BaseVideoProcessor]] = {
    # InternVL's own differs in how it samples frames, which are chosen here before.
    "InternVLVideoProcessor": LlavaOnevisionVideoProcessor,
    "LlavaOnevisionVideoProcessor": LlavaOnevisionVideoProcessor,
    "Qwen2VLVideoProcessor": _Qwen2VL,
    "Qwen3VLVideoProcessor": Qwen3VLVideoProcessor,
    "SmolVLMVideoProcessor": SmolVLMVideoProcessor,
}

_OF_MODEL_TYPE = {
    "internvl": "InternVLVideoProcessor",
    "llava_onevision": "LlavaOnevisionVideoProcessor",
    "qwen2_5_omni": "Qwen2VLVideoProcessor",
    "qwen2_5_omni_thinker": "Qwen2VLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
    "qwen3_vl_moe": "Qwen3VLVideoProcessor",
    "smolvlm": "SmolVLMVideoProcessor",
}


def make_video_processor(name: str, **values: Any) -> Any:
    """The video processor of that class name on plain torch; ``values`` are its settings. Raises KeyError."""
    known = _CLASSES[name]
    bases = (known,) if issubclass(known, PlainTorch) else (known, PlainTorch)
    return type(name, bases, {"__module__": known.__module__})(**values)


def load_video_processor(pretrained: str, model_type: str, revision: str | None) -> Any | None:
    """The checkpoint's video processor on plain torch; None: it has none, or one that is not known here."""
    try:
        values, _ = BaseVideoProcessor.get_video_processor_dict(pretrained, revision=revision)
    except OSError:  # a trainer without torchvision saves none
        values = {}
    name = values.get("video_processor_type") or _OF_MODEL_TYPE.get(model_type)
    if name is None or name not in _CLASSES:
        return None
    return make_video_processor(name, **values)


def is_patched(video_processor: Any) -> bool:
    """Whether it cuts videos into patches of any number (Qwen2-VL and its kin), so that all share one long row."""
    return "video_grid_thw" in video_processor.model_input_names


def patch_factor(video_processor: Any) -> int:
    """Pixels that the sides of a frame must be multiples of."""
    return math.prod((int(video_processor.patch_size), int(video_processor.merge_size)))

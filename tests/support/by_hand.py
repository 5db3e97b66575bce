"""A model asked with nothing but transformers, one sample at a time: what the service's answers must be equal to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

FRAMES_AS_IMAGES = frozenset({"gemma3", "idefics2", "idefics3", "llama_vision", "llava_hf"})
"""Families that have no placeholder for videos."""

QWEN_SIDES = {"qwen2_vl": 56, "qwen2_5_vl": 56, "qwen3_vl": 64}
"""Width and height that frames of 64 × 64 pixels get from Qwen's readers, within ``checkpoints.small_args``."""


_ASSISTANT = "You are a helpful assistant."
SYSTEM_PROMPTS = dict.fromkeys(("gemma3", "qwen2_vl", "qwen3_vl"), _ASSISTANT) | {
    "qwen2_5_omni": (
        "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
        "visual inputs, as well as generating text and speech."
    )
}
"""What lmms-eval puts in front of every conversation."""


@dataclass(frozen=True)
class Clip:
    """Frames of a video and what a processor wants to know of them."""

    frames: npt.NDArray[np.uint8]
    indices: list[int]
    total: int
    fps: float

    @property
    def sampled_fps(self) -> float:
        return len(self.indices) / self.total * self.fps

    @property
    def metadata(self) -> dict[str, Any]:
        height, width = self.frames.shape[1:3]
        duration = self.total / self.fps
        known = {"total_num_frames": self.total, "fps": self.fps, "duration": duration, "height": height}
        return {**known, "width": width, "frames_indices": list(self.indices)}


@dataclass(frozen=True)
class Sample:
    """A question about media, in front of it, and the right answer."""

    question: str
    answer: str = ""
    images: tuple[Image.Image, ...] = ()
    videos: tuple[Clip, ...] = ()
    sounds: tuple[npt.NDArray[np.float32], ...] = ()


def read_clip(file: Path, indices: Sequence[int]) -> Clip:
    """Decodes everything and keeps some."""
    with av.open(str(file)) as container:
        rate = container.streams.video[0].average_rate
        assert rate is not None
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return Clip(np.stack([frames[index] for index in indices]), list(indices), len(frames), float(rate))


def prompt_of(family: str, processor: Any, sample: Sample) -> str:
    """The question as the model's chat template has it."""
    if family == "huggingface_text":
        messages: Any = [{"role": "user", "content": sample.question}]
    else:
        pictures = len(sample.images)
        clips = len(sample.videos)
        if family in FRAMES_AS_IMAGES:
            pictures, clips = pictures + sum(len(clip.frames) for clip in sample.videos), 0
        kinds = ["image"] * pictures + ["video"] * clips + ["audio"] * len(sample.sounds)
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": sample.question}]
        messages = [{"role": "user", "content": content}]
        if family in SYSTEM_PROMPTS:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": SYSTEM_PROMPTS[family]}]})
    prompt: str = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return prompt


def tensors_of(family: str, processor: Any, prompts: Sequence[str], samples: Sequence[Sample]) -> Any:
    """The model's inputs for samples with the same kinds of media."""
    images, videos = [list(sample.images) for sample in samples], [clip for one in samples for clip in one.videos]
    if family in FRAMES_AS_IMAGES:
        for own, sample in zip(images, samples, strict=True):
            own += [Image.fromarray(frame) for clip in sample.videos for frame in clip.frames]
        videos = []
    given: dict[str, Any] = {"text": list(prompts)} if any(images) or videos else {}
    if any(images):
        given["images"] = images
    if videos:
        given["videos"] = [_fit(family, clip.frames) for clip in videos]
        given["videos_kwargs"] = {
            "video_metadata": [clip.metadata for clip in videos],
            "do_sample_frames": False,
            "input_data_format": "channels_last",
        }
    sounds = [sound for sample in samples for sound in sample.sounds]
    if sounds:
        given = {**given, "text": list(prompts), "audio": sounds}
        given["audio_kwargs"] = {"sampling_rate": processor.feature_extractor.sampling_rate}
    options = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    if processor.bos_token if family == "huggingface_text" else processor.tokenizer.bos_token:
        options["add_special_tokens"] = False  # the template has it
    if not given:
        return (processor if family == "huggingface_text" else processor.tokenizer)(list(prompts), **options)
    return processor(**given, **options)


def _fit(family: str, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    side = QWEN_SIDES.get(family)
    if side is None or frames.shape[1:3] == (side, side):
        return frames
    assert frames.shape[1:3] == (64, 64)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
    return resized.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@torch.inference_mode()
def answer(family: str, model: Any, processor: Any, sample: Sample, max_new_tokens: int) -> str:
    """Greedily, in the numbers that the model has."""
    inputs = tensors_of(family, processor, [prompt_of(family, processor, sample)], [sample])
    if sample.videos and family == "qwen2_5_omni":  # the processor takes two frames a second for granted
        inputs["video_second_per_grid"] = torch.tensor([2 / clip.sampled_fps for clip in sample.videos])
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    tokenizer = processor if family == "huggingface_text" else processor.tokenizer
    text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def train(family: str, model: Any, processor: Any, samples: Sequence[Sample], *, steps: int, rate: float) -> None:
    """Teaches the model the answers, which must be of equal length, by showing batches of 32 again and again."""
    tokenizer = processor if family == "huggingface_text" else processor.tokenizer
    batches = []
    for first in range(0, len(samples), 32):
        chunk = samples[first : first + 32]
        prompts = [prompt_of(family, processor, sample) + sample.answer + tokenizer.eos_token for sample in chunk]
        inputs = tensors_of(family, processor, prompts, chunk)
        labels = torch.full_like(inputs["input_ids"], -100)
        learned = len(tokenizer(chunk[0].answer, add_special_tokens=False)["input_ids"]) + 1
        labels[:, -learned:] = inputs["input_ids"][:, -learned:]
        batches.append({**inputs, "labels": labels})
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for step in range(steps):
        model(**batches[step % len(batches)]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()

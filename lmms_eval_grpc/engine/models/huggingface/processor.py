"""Loading a checkpoint's processor, and turning a batch of prompts and their media into the model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from lmms_eval_grpc.engine.models.huggingface.media import Media
from lmms_eval_grpc.engine.models.huggingface.video import PlainTorch, load_video_processor


class TextOnly:
    """The tokenizer of a language model, to be called as a processor is."""

    image_processor = video_processor = feature_extractor = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.chat_template = tokenizer.chat_template

    def apply_chat_template(self, conversation: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """Templates of language models take a message's content as one text."""
        plain = [
            {**message, "content": "".join(item["text"] for item in message["content"])} for message in conversation
        ]
        return self.tokenizer.apply_chat_template(plain, chat_template=self.chat_template, **options)

    def __call__(self, text: Sequence[str], **options: Any) -> Any:
        return self.tokenizer(text, **options)


def load_processor(pretrained: str, config: Any, *, text_only: bool, revision: str | None, **trust: bool) -> Any:
    """The checkpoint's processor, or for a language model its tokenizer, set to pad on the left.

    Where the video processor needs torchvision and that is not installed, :mod:`.video` stands in for it, or there is
    none. Raises whatever transformers raises.
    """
    options = {"revision": revision, **trust}
    if text_only:
        processor = TextOnly(AutoTokenizer.from_pretrained(pretrained, **options))
    else:
        try:
            processor = AutoProcessor.from_pretrained(pretrained, **options)
        except (ImportError, OSError):
            # Video processors need torchvision even where images do not, and a trainer without it saves none.
            processor_class = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(pretrained, **options)), None)
            if processor_class is None or "video_processor" not in processor_class.get_attributes():
                raise
            video_processor = load_video_processor(pretrained, config.model_type, revision)
            processor = with_video(processor_class, video_processor).from_pretrained(pretrained, **options)
        if isinstance(processor, PreTrainedTokenizerBase):
            processor = TextOnly(processor)
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def with_video(processor_class: Any, video_processor: Any | None) -> Any:
    """A processor class of the same name that gets this video processor, or none, instead of loading its own."""
    attributes = processor_class.get_attributes()
    place = attributes.index("video_processor")
    others = [name for name in attributes if name != "video_processor"]
    if video_processor is None and place != len(others):
        raise ImportError(f"{processor_class.__name__} takes its video processor before others; install torchvision")
    without: dict[str, Any] = {"get_attributes": classmethod(lambda cls: others)}
    loading: Any = type(processor_class.__name__, (processor_class,), without)

    def get_arguments(cls: Any, *args: Any, **kwargs: Any) -> list[Any]:
        found: list[Any] = loading._get_arguments_from_pretrained(*args, **kwargs)
        return [*found[:place], video_processor, *found[place:]]

    def check(self: Any, name: str, argument: Any) -> Any:
        # transformers knows no class of video processors where torchvision is not installed.
        if name == "video_processor":
            return type(argument)
        return processor_class.check_argument_for_proper_class(self, name, argument)

    body: dict[str, Any] = {
        "_get_arguments_from_pretrained": classmethod(get_arguments),
        "check_argument_for_proper_class": check,
        "__module__": processor_class.__module__,
    }
    if video_processor is None:
        body |= without
        # Template code asks for these two even when there is no video.
        body["video_processor"] = SimpleNamespace(num_frames=None, fps=None)
    return type(processor_class.__name__, (processor_class,), body)


def video_processor_of(processor: Any) -> Any | None:
    """What makes tensors of videos as such; None: the model sees videos as images."""
    found = getattr(processor, "video_processor", None)
    has_token = getattr(processor, "video_token", None) is not None
    return found if has_token and hasattr(found, "model_input_names") else None


def audio_processor_of(processor: Any) -> Any | None:
    """What makes tensors of sound, at its ``sampling_rate``."""
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def modalities_of(processor: Any) -> frozenset[str]:
    """What the checkpoint reads; who reads images reads videos as their frames."""
    found = {"text"}
    if getattr(processor, "image_processor", None) is not None:
        found |= {"image", "video"}
    if audio_processor_of(processor) is not None:
        found.add("audio")
    return frozenset(found)


def describe_processor(processor: Any) -> dict[str, Any]:
    """Which classes and libraries make tensors of media, for the record."""
    names: dict[str, Any] = {"processor_class": type(processor).__name__}
    image_processor, video_processor = getattr(processor, "image_processor", None), video_processor_of(processor)
    if isinstance(processor, TextOnly):
        return {"processor_class": type(processor.tokenizer).__name__, "image_backend": None}
    if image_processor is not None:
        image_class = type(image_processor).__name__
        names |= {
            "image_processor_class": image_class,
            "image_backend": "pil" if image_class.endswith("Pil") else "torchvision",
            "video_processor_class": None if video_processor is None else type(video_processor).__name__,
            "video_backend": "images",
        }
        if video_processor is not None:
            names["video_backend"] = "torch" if isinstance(video_processor, PlainTorch) else "torchvision"
    if (audio_processor := audio_processor_of(processor)) is not None:
        names |= {"audio_processor_class": type(audio_processor).__name__}
        names |= {"sampling_rate": audio_processor.sampling_rate}
    return names


def set_pixel_bounds(processor: Any, min_pixels: int | None, max_pixels: int | None) -> bool:
    """Hands pixel bounds to an image processor that has its own (Qwen2-VL and its kin); False: it has none."""
    image_processor = getattr(processor, "image_processor", None)
    if image_processor is None or "min_pixels" not in _settings_of(image_processor):
        return False
    size = dict(image_processor.size)
    if min_pixels is not None:
        size["shortest_edge"] = min_pixels
    if max_pixels is not None:
        size["longest_edge"] = max_pixels
    image_processor.size = type(image_processor.size)(**size)
    return True


def set_image_options(processor: Any, options: Mapping[str, Any]) -> None:
    """Changes settings of the image processor, as ``max_patches``. Raises ValueError for one that it does not have."""
    image_processor = getattr(processor, "image_processor", None)
    for name, value in options.items():
        if image_processor is None or name not in _settings_of(image_processor):
            raise ValueError(f"{name} has no meaning for {type(image_processor).__name__}")
        setattr(image_processor, name, value)


def _settings_of(image_processor: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(type(image_processor).valid_kwargs, "__annotations__", {})
    return found


def encode(processor: Any, prompts: Sequence[str], media: Sequence[Media], side: str = "left") -> Any:
    """Input tensors on the CPU, padded on the given side: ``input_ids`` is (prompts, longest prompt).

    All prompts have the same kinds of media: processors disagree on what an empty list among full ones means.
    """
    bos = processor.tokenizer.bos_token
    # A template that writes the beginning mark itself must not get a second one from the tokenizer.
    has_bos = bool(bos) and all(prompt.startswith(bos) for prompt in prompts)
    given: dict[str, Any] = {}
    if any(own.images for own in media):
        given["images"] = [list(own.images) for own in media]
    videos = [video for own in media for video in own.videos]
    if videos:
        given["videos"] = [video.frames for video in videos]
        given["videos_kwargs"] = {
            "video_metadata": [video.metadata() for video in videos],
            "do_sample_frames": False,
            "do_resize": not videos[0].fitted,
            "input_data_format": "channels_last",
        }
    sounds = [sound for own in media for sound in own.sounds]
    if sounds:
        given["audio"] = sounds
        given["audio_kwargs"] = {"sampling_rate": audio_processor_of(processor).sampling_rate}  # type: ignore[union-attr]
    inputs = processor(
        text=list(prompts),
        padding=True,
        padding_side=side,
        add_special_tokens=not has_bos,
        return_tensors="pt",
        **given,
    )
    if "video_second_per_grid" in inputs:  # Qwen2.5-Omni's takes two frames a second for granted
        for row, video in enumerate(videos):
            inputs["video_second_per_grid"][row] = processor.video_processor.temporal_patch_size / video.sampled_fps
    return inputs

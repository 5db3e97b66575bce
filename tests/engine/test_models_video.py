"""Frames as tensors without torchvision: against formulas, Pillow and, where it is installed, torchvision itself."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from lmms_eval_grpc.engine.models.huggingface.video import fit_frames, make_video_processor, resize

MODULES = {
    "InternVLVideoProcessor": "internvl",
    "LlavaOnevisionVideoProcessor": "llava_onevision",
    "Qwen2VLVideoProcessor": "qwen2_vl",
    "Qwen3VLVideoProcessor": "qwen3_vl",
    "SmolVLMVideoProcessor": "smolvlm",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "Qwen2VLVideoProcessor": {
        "size": {"shortest_edge": 3136, "longest_edge": 9408},
        "cap_pixels_per_frame": False,
    },
    "Qwen3VLVideoProcessor": {
        "size": {"shortest_edge": 4096, "longest_edge": 40960},
        "cap_pixels_per_frame": False,
    },
}


def smooth_frames(count: int, height: int = 72, width: int = 100) -> npt.NDArray[np.uint8]:
    random = np.random.default_rng(0)
    small = random.integers(0, 255, (count, 9, 12, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height))) for one in small])


def process(processor: Any, frames: npt.NDArray[np.uint8], **options: Any) -> Any:
    metadata = {"total_num_frames": 20, "fps": 5.0, "duration": 4.0, "frames_indices": list(range(len(frames)))}
    options = {"do_sample_frames": False, "input_data_format": "channels_last", "return_tensors": "pt", **options}
    return processor(videos=[frames], video_metadata=[metadata], **options)


@pytest.mark.parametrize("name", ["Qwen2VLVideoProcessor", "Qwen3VLVideoProcessor"])
def test_patches_are_pairs_of_frames_in_blocks_that_are_merged(name: str) -> None:
    processor = make_video_processor(name, **SETTINGS[name])
    size = processor.patch_size
    frames = smooth_frames(5, 4 * size, 6 * size)  # the fifth is paired with itself
    found = process(processor, frames, do_resize=False)
    assert found["video_grid_thw"].tolist() == [[3, 4, 6]]
    pixels = (frames / 255 - np.array(processor.image_mean)) / np.array(processor.image_std)
    pixels = np.concatenate([pixels, pixels[-1:]])
    expected = []
    for pair in range(3):
        for block_row in range(2):
            for block_column in range(3):
                for row in (2 * block_row, 2 * block_row + 1):
                    for column in (2 * block_column, 2 * block_column + 1):
                        here = (slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size))
                        patch = pixels[2 * pair : 2 * pair + 2, *here]  # two frames × rows × columns × colours
                        expected.append(patch.transpose(3, 0, 1, 2).reshape(-1))
    assert np.allclose(found["pixel_values_videos"].numpy(), np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_resized_pictures_are_pillows_to_a_rounding(resample: Image.Resampling) -> None:
    frames = smooth_frames(2)
    found = resize(torch.from_numpy(frames).permute(0, 3, 1, 2), 40, 60, resample)
    expected = np.stack([np.asarray(Image.fromarray(frame).resize((60, 40), resample)) for frame in frames])
    assert found.dtype == torch.uint8
    assert np.abs(found.permute(0, 2, 3, 1).numpy().astype(int) - expected.astype(int)).max() <= 2


@pytest.mark.parametrize(
    ("count", "bounds", "expected"),
    [
        (2, (None, None, None), (280, 392)),  # 128 tokens at least
        (2, (3136, None, None), (84, 112)),
        (2, (3136, 3136, None), (28, 56)),
        (2, (784, None, 8000), (56, 84)),  # 8,000 pixels for one pair
        (4, (784, None, 8000), (28, 56)),
        (4, (3136, None, 1000), (28, 56)),  # but never much less than the least
    ],
)
def test_frames_get_the_sizes_that_qwens_readers_give_them(
    count: int, bounds: tuple[int | None, int | None, int | None], expected: tuple[int, int]
) -> None:
    found = fit_frames(smooth_frames(count), 28, *bounds)
    assert found.shape == (count, *expected, 3)
    assert found.dtype == np.uint8


def test_frames_of_a_long_video_are_fitted_as_those_of_a_short_one() -> None:
    frames = smooth_frames(40)
    whole = fit_frames(frames, 28, 784, 1568)
    singly = np.concatenate([fit_frames(frames[place : place + 1], 28, 784, 1568) for place in range(40)])
    assert whole.shape[1:3] != frames.shape[1:3]
    assert np.array_equal(whole, singly)


def test_an_unknown_video_processor_is_not_made_up() -> None:
    with pytest.raises(KeyError):
        make_video_processor("OtherVideoProcessor")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_where_torchvision_is_installed_its_tensors_are_the_same(name: str) -> None:
    pytest.importorskip("torchvision")
    module = importlib.import_module(f"transformers.models.{MODULES[name]}.video_processing_{MODULES[name]}")
    settings = SETTINGS.get(name, {})
    theirs = process(getattr(module, name)(**settings), smooth_frames(5))
    ours = process(make_video_processor(name, **settings), smooth_frames(5))
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key

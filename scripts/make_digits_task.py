"""Writes the test split of the ``handwritten_digits`` task from scikit-learn's copy of the UCI digits.

Run it from anywhere; it overwrites ``lmms_eval_grpc/benchmarks/handwritten_digits/test.parquet``. The same library
versions give the same bytes, and any versions the same images, labels and indices. Needs scikit-learn, which neither
the task nor the package needs once the file is written.
"""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TEST_SIZE = 360
OUTPUT = Path(__file__).resolve().parent.parent / "lmms_eval_grpc" / "benchmarks" / "handwritten_digits"


def choose_test_indices(total: int) -> list[int]:
    """A fixed random fifth, in ascending order. ``RandomState`` streams are frozen by NumPy's compatibility policy."""
    return sorted(int(index) for index in np.random.RandomState(0).permutation(total)[:TEST_SIZE])


def encode_png(pixels: np.ndarray) -> bytes:
    """One 8×8 image with intensities 0 (paper) to 16 (ink), as an 8-bit grey PNG that is white on black."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def main() -> None:
    digits = load_digits()
    indices = choose_test_indices(len(digits.images))
    table = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": encode_png(digits.images[index]), "path": None} for index in indices],
            "label": [int(digits.target[index]) for index in indices],
            "index": indices,
        },
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.Value("int8"), "index": datasets.Value("int16")}
        ),
    )
    OUTPUT.mkdir(parents=True, exist_ok=True)
    table.to_parquet(str(OUTPUT / "test.parquet"))
    print(f"{OUTPUT / 'test.parquet'}: {len(indices)} images")


if __name__ == "__main__":
    main()

"""Made data sets as parquet files, and a ``datasets.load_dataset`` that takes them for those of the hub."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def place(root: Path, path: str, name: str | None) -> Path:
    """Folder of the files that stand for the data set ``path`` (a hub id) in its configuration ``name``."""
    return root / path.replace("/", "__") / (name or "default")


def write_splits(root: Path, path: str, name: str | None, splits: Mapping[str, Any]) -> None:
    """Keeps each ``datasets.Dataset`` of ``splits``; splits of one data set may be written one after the other."""
    folder = place(root, path, name)
    folder.mkdir(parents=True, exist_ok=True)
    for split, dataset in splits.items():
        dataset.to_parquet(folder / f"{split}.parquet")


def loader(root: Path, *, plain_sound: bool = False) -> Callable[..., Any]:
    """A function to put in the place of ``datasets.load_dataset``; it knows what was written below ``root`` only.

    With ``plain_sound``, columns of sound hold the samples: the datasets library decodes files of sound with a package
    that is not to be had beside a CPU torch.
    """

    def load_dataset(path: str, name: str | None = None, **_: Any) -> Any:
        import datasets

        files = sorted(place(root, path, name).glob("*.parquet"))
        if not files:
            raise FileNotFoundError(f"nothing was made for {path} ({name or 'no configuration'})")
        cache = str(root / "cache")
        splits = {file.stem: datasets.Dataset.from_parquet(str(file), cache_dir=cache) for file in files}
        if plain_sound:
            splits = {split: _with_samples(dataset) for split, dataset in splits.items()}
        return datasets.DatasetDict(splits)

    return load_dataset


def _with_samples(dataset: Any) -> Any:
    import datasets

    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Audio):
            files = dataset.cast_column(column, datasets.Audio(decode=False))
            samples = [_decoded(value) for value in files[column]]
            dataset = dataset.remove_columns(column).add_column(column, samples)
    return dataset


def _decoded(value: Mapping[str, Any]) -> dict[str, Any]:
    import soundfile

    array, rate = soundfile.read(io.BytesIO(value["bytes"]), dtype="float32")
    return {"path": value["path"], "array": array.tolist(), "sampling_rate": rate}

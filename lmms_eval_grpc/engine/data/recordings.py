"""Audio and video columns, decoded without the libraries that the datasets package wants for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_eval_grpc.engine.data.media.audio import decode_audio, resample


def without_decoding(dataset: Any) -> Any:
    """``dataset`` (a ``datasets.Dataset``) whose audio and video columns give their files, not decoded."""
    for name, feature in dataset.features.items():
        undecoded = _undecoded(feature)
        if undecoded is not feature:
            dataset = dataset.cast_column(name, undecoded)
    return dataset


def decode_recording(feature: Any, value: Any) -> Any:
    """One value of an audio or video column, alone or in a list, as a task's functions expect it; None stays None.

    Audio is a mapping of ``array`` (one channel), ``sampling_rate`` (hertz, the column's own if it has one) and
    ``path``. A video is its path, or a mapping of ``type``, ``bytes`` and ``path`` where the dataset holds the file
    itself. Raises MediaError for audio that cannot be decoded.
    """
    if value is None:
        return None
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) else feature.feature
        return [decode_recording(inner, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if type(feature).__name__ == "Audio":
        samples, native = decode_audio(value)
        rate = int(feature.sampling_rate or native)
        return {"path": value.get("path"), "array": resample(samples, native, rate), "sampling_rate": rate}
    if value.get("bytes") is None:
        return value.get("path")
    return {"type": "video", "bytes": value["bytes"], "path": value.get("path")}


def _undecoded(feature: Any) -> Any:
    import datasets

    if isinstance(feature, datasets.Audio):
        return datasets.Audio(sampling_rate=feature.sampling_rate, decode=False) if feature.decode else feature
    if type(feature).__name__ == "Video" and getattr(feature, "decode", False):
        return type(feature)(decode=False)
    if isinstance(feature, list) and len(feature) == 1:
        inner = _undecoded(feature[0])
        return feature if inner is feature[0] else [inner]
    inner = getattr(feature, "feature", None)
    if inner is not None and not isinstance(inner, Mapping):
        undecoded = _undecoded(inner)
        return feature if undecoded is inner else type(feature)(undecoded)
    return feature

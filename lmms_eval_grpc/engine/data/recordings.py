"""Audio and video columns, decoded without the libraries that the datasets package wants for them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def without_decoding(dataset: Any) -> Any:
    """``dataset`` (a ``datasets.Dataset``) whose audio and video columns give their files, not decoded."""
    for name, feature in dataset.features.items():
        undecoded = _undecoded(feature)
        if undecoded is not feature:
            dataset = dataset.cast_column(name, undecoded)
    return dataset


def decode_recording(feature: Any, value: Any) -> Any:
    """One value of an audio or video column, alone or in a list, as a task's functions expect it; None stays None.

    Raises ValueError for audio that cannot be decoded.
    """
    if value is None:
        return None
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) else feature.feature
        return [decode_recording(inner, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if type(feature).__name__ == "Audio":
        return decode_audio(value)
    path, content = value.get("path"), value.get("bytes")
    return path if content is None else content


def decode_audio(value: Mapping[str, Any]) -> dict[str, Any]:
    """A file (``path``, ``bytes``) as ``array`` of floats, ``sampling_rate`` in hertz and ``path``."""
    import soundfile  # late: few tasks have sound

    path, content = value.get("path"), value.get("bytes")
    try:
        array, rate = soundfile.read(io.BytesIO(content) if content is not None else str(path), dtype="float32")
    except (soundfile.SoundFileError, OSError) as error:
        name = Path(path).name if path else "the recording"
        raise ValueError(f"{name} is no audio that can be decoded: {error}") from error
    return {"path": path, "array": array, "sampling_rate": int(rate)}


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

"""Whether the same prompt may be answered differently the next time, as far as generation arguments say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COUNTS = ("n", "best_of", "num_return_sequences")


def samples(generation: Mapping[str, Any]) -> bool:
    """Whether the arguments ask for a random draw, or for several answers; nothing said is greedy."""
    if generation.get("do_sample") or (generation.get("temperature") or 0) > 0:
        return True
    return any((generation.get(name) or 1) > 1 for name in _COUNTS)


def samples_unless_told(generation: Mapping[str, Any]) -> bool:
    """As :func:`samples`, where the model decides for itself as long as nothing is said."""
    told = generation.get("temperature") is not None or generation.get("do_sample") is not None
    return not told or samples(generation)


def always_samples(generation: Mapping[str, Any]) -> bool:
    """Whatever is asked for: where nobody knows what the model makes of it."""
    return True

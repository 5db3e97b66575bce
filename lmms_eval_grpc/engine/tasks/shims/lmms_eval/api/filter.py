"""``lmms_eval.api.filter``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Filter:
    """Base of a task's own filters. ``apply`` gets the responses of several documents and the documents themselves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Subclasses take what their entry in ``filter_list`` says."""

    def apply(self, resps: Sequence[Any], docs: Sequence[Any]) -> Sequence[Any]:
        """One item per document, in the same order."""
        return resps

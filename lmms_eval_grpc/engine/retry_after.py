"""How long a server asks its clients to wait."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait by ``retry-after-ms``, or by ``Retry-After``, a number or a date; 0 where there is neither.

    ``headers`` must find a name in any case, as those of HTTP libraries do.
    """
    try:
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    except (KeyError, TypeError, ValueError):
        pass
    header = headers.get("retry-after")
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0

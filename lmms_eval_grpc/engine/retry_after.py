"""How long a server asks its clients to wait."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable


def retry_after(header: Callable[[str], str | None]) -> float:
    """Seconds to wait by ``retry-after-ms``, or by ``Retry-After``, a number or a date; 0 where there is neither.

    ``header`` gives a response's header by its name, in whatever case it was sent.
    """
    try:
        return max(0.0, float(header("retry-after-ms") or "") / 1000)
    except ValueError:
        pass
    wish = header("retry-after")
    if not wish:
        return 0.0
    try:
        return max(0.0, float(wish))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(wish).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0

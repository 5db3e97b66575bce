"""Reading the audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of the audit log that are whole."""
    # By line feeds only: names in the lines may hold other characters that end a line of text.
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]  # the last is empty, or half written

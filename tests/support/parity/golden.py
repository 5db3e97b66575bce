"""lmms-eval's own results over the made documents, kept as data for tests that run without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from tests.support.parity.recorded import Recorded

FOLDER = Path(__file__).resolve().parents[2] / "engine" / "conformance" / "golden" / "end_to_end"
"""One JSON file per task or group; ``scripts/score_parity --record`` writes them."""


def write_golden(recorded: Recorded) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file in FOLDER.glob("*.json"):
        file.unlink()
    for name, result in sorted(recorded.items()):
        lines = ",\n".join(json.dumps(sample, ensure_ascii=False) for sample in result["samples"])
        text = f'{{"results": {json.dumps(result["results"], ensure_ascii=False)},\n"samples": [\n{lines}\n]}}\n'
        (FOLDER / f"{name}.json").write_text(text)


def read_golden() -> Recorded:
    return cast("Recorded", {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))})

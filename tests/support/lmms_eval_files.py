"""lmms-eval's own files, for tests that compare with them; ``scripts/test`` puts them there."""

from __future__ import annotations

from pathlib import Path

import pytest

RELEASE = "0.7.3"
ROOT = Path(__file__).resolve().parents[2] / ".reference"
"""The folder that holds the package ``lmms_eval``, if anything."""
PACKAGE = ROOT / "lmms_eval"

needs_lmms_eval = pytest.mark.skipif(
    not PACKAGE.is_dir(), reason=f"the files of lmms-eval {RELEASE} are not in .reference; scripts/test gets them"
)


def require_lmms_eval() -> None:
    """Skips the calling module where there is nothing to compare with."""
    if not PACKAGE.is_dir():
        pytest.skip(needs_lmms_eval.kwargs["reason"], allow_module_level=True)

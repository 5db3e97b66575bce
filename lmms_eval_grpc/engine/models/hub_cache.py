"""Which commit of a model on the Hugging Face hub lies in this machine's cache. Asks no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

UNRESOLVED = "unresolved"
"""In place of the commit of a model whose files are not where the hub's client keeps them."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def resolve_commit(pretrained: Any, revision: str | None = None) -> str | None:
    """The commit that a model was loaded from, to be asked once it is; None where it does not come from the hub.

    ``revision`` is a branch, a tag or a commit; None: ``main``.
    """
    if not isinstance(pretrained, str) or not _REPOSITORY.fullmatch(pretrained) or Path(pretrained).exists():
        return None
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub.constants import HF_HUB_CACHE  # late: not installed wherever models are asked elsewhere

    folder = Path(HF_HUB_CACHE) / f"models--{pretrained.replace('/', '--')}"
    try:
        commit = (folder / "refs" / (revision or "main")).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return UNRESOLVED
    return commit if _COMMIT.fullmatch(commit) else UNRESOLVED

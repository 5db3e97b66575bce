"""Digests of documents: equal values have equal digests, in every process and on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.record.plain_json import to_plain


def digest_value(value: Any) -> str:
    """SHA-256 over ``value`` as canonical JSON, bytes by their own digest."""
    text = json.dumps(_canonical(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"bytes", "path"}:
            return _media(value)
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    return to_plain(value)


def _media(value: Mapping[str, Any]) -> Any:
    """An undecoded image: its content, and only without any its name, which may differ between machines."""
    content, path = value["bytes"], value["path"]
    if content is None and path is not None and Path(path).is_file():
        content = Path(path).read_bytes()
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest()}
    return {"path": path}

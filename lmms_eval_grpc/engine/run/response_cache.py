"""Responses on disk, shared by evaluations: what a model was asked before, it is not asked again.

Light: may be imported by whoever checks a configuration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lmms_eval_grpc.engine.key_value_file import KeyValueFile
from lmms_eval_grpc.engine.models.protocol import GenerationResponse

FILE = "responses.sqlite3"
"""Name of the cache in its folder. Not ``cache.db``, which lmms-eval puts there in a form of its own."""

_FIELDS = (
    "text",
    "input_tokens",
    "output_tokens",
    "log_probability",
    "is_greedy",
    "reasoning_tokens",
    "cached_input_tokens",
)


def cache_folder(path: Path) -> Path:
    """The folder that a setting ``use_cache`` means: of a path that ends in ``.db`` the one it is in."""
    return (path.parent if path.suffix == ".db" else path).expanduser()


class ResponseCache:
    """The responses in one folder. Any number of evaluations, in processes of their own, may use it at once.

    Damage, locks and full disks cost a warning and the cache; nothing here raises.
    """

    def __init__(self, folder: Path) -> None:
        self._file = KeyValueFile(folder / FILE, "response cache")

    def get(self, key: str) -> GenerationResponse | None:
        """The response to the request of that key, marked as cached."""
        text = self._file.get(key)
        try:
            return None if text is None else GenerationResponse(**json.loads(text), cached=True)
        except (ValueError, TypeError):  # not written by this class
            return None

    def put(self, responses: Mapping[str, GenerationResponse]) -> None:
        """Keeps responses by key, token counts with them. An error is no response: it is left out."""
        self._file.put(
            {
                key: json.dumps({name: getattr(response, name) for name in _FIELDS})
                for key, response in responses.items()
                if response.error is None
            }
        )

    def close(self) -> None:
        self._file.close()

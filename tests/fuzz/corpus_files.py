"""Requests as files: good ones that others are made of, and those that once found something.

A file ``corpus/requests/NAME.txt`` has the method's path in its first line, and then each message of the request: as
protobuf text after a line ``text``, or, where that could not say it, as base64 after a line ``base64``. ``{caller}``
stands for the caller's folder.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from tests.fuzz.methods import BY_PATH, Method
from tests.fuzz.rules import Request

FOLDER = Path(__file__).parent / "corpus"
REQUESTS = FOLDER / "requests"
_CALLER = "{caller}"


@dataclass(frozen=True, slots=True)
class Kept:
    """One file."""

    name: str
    path: str
    bodies: tuple[tuple[str, str], ...]

    def request(self, caller: Path) -> Request:
        """The request, of a caller whose files are in ``caller``."""
        method = BY_PATH[self.path]
        return Request(method, tuple(_read(method, kind, text, caller) for kind, text in self.bodies))


def kept_requests() -> Iterator[Kept]:
    """All files, sorted by name."""
    for file in sorted(REQUESTS.glob("*.txt")):
        path, *rest = file.read_text().split("\n== ")
        bodies = tuple((kind, text) for kind, _, text in (part.partition("\n") for part in rest))
        yield Kept(file.stem, path.splitlines()[0].strip(), bodies)


def keep(request: Request, caller: Path, folder: Path = REQUESTS) -> Path:
    """Writes a file for ``request``, named by its method and its content."""
    parts = [request.method.path, *(_write(request.method, message, caller) for message in request.messages)]
    content = "\n== ".join(parts).rstrip("\n") + "\n"
    name = f"{request.method.name}-{hashlib.sha256(content.encode()).hexdigest()[:10]}.txt"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
    return folder / name


def _write(method: Method, data: bytes, caller: Path) -> str:
    message = method.make()
    try:
        message.ParseFromString(data)
        text = text_format.MessageToString(message)
        again = text_format.Parse(text, method.make())
        if again.SerializePartialToString(deterministic=True) == data and _CALLER not in text:
            return f"text\n{text.replace(str(caller), _CALLER)}"
    except (DecodeError, text_format.ParseError, ValueError, RecursionError):
        pass
    return f"base64\n{base64.b64encode(data).decode()}"


def _read(method: Method, kind: str, text: str, caller: Path) -> bytes:
    if kind == "base64":
        return base64.b64decode(text)
    message = text_format.Parse(text.replace(_CALLER, str(caller)), method.make())
    data: bytes = message.SerializePartialToString(deterministic=True)
    return data

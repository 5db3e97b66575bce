"""A real HTTP server on this machine that speaks OpenAI's chat protocol, also badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server does with one request."""

    content: str | None = "1"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Instead of a completion with ``content``."""
    delay: float = 0.0
    """Seconds before the first byte."""
    drip: float = 0.0
    """Seconds between single bytes."""
    hang_up: bool = False
    """Closes the connection without a word."""
    finish_reason: str = "stop"
    hold: threading.Event | None = None
    """Waits for it before the first byte."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of the completion, or others in their place."""


@dataclass
class Asked:
    """One request as it arrived."""

    path: str
    headers: Message
    """Found by their names in any case."""
    payload: dict[str, Any]
    at: float

    @property
    def text(self) -> str:
        """The last message's text."""
        content = self.payload["messages"][-1]["content"]
        return content if isinstance(content, str) else content[0]["text"]


def question(asked: Asked) -> str:
    """The text of the request's last item."""
    return str(asked.payload["messages"][-1]["content"][-1]["text"])


class JudgeHandle:
    """The running server: its address, what it was asked, and how it answers."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.script: list[Reply] = []
        """Used up first, one per request."""
        self.answer: Callable[[Asked], Reply] = lambda asked: Reply()
        """For every other request; called on its thread, so it may wait for others."""
        self.models: list[str] | None = None
        """What ``GET /models`` lists; None: it answers :attr:`no_models_status`."""
        self.no_models_status = 404
        self.open = 0
        self.most_open = 0
        self.lock = threading.Lock()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts a request as open while the block runs."""
        with self.lock:
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            yield
        finally:
            with self.lock:
                self.open -= 1

    def take(self, asked: Asked) -> Reply:
        with self.lock:
            self.asked.append(asked)
            if self.script:
                return self.script.pop(0)
        return self.answer(asked)


@contextmanager
def running_judge() -> Iterator[JudgeHandle]:
    """Serves until the block is left."""
    handle = JudgeHandle()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                # Open until its reply is sent: whoever has the reply may ask the next at once.
                with handle.counted():
                    payload, reply = self._receive()
                if not reply.hang_up:
                    self._send(payload, reply)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up first, as some tests want

        def do_GET(self) -> None:
            listed = [{"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in handle.models or ()]
            body = json.dumps({"object": "list", "data": listed}).encode()
            self.send_response(handle.no_models_status if handle.models is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _receive(self) -> tuple[dict[str, Any], Reply]:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = handle.take(Asked(self.path, self.headers, payload, time.monotonic()))
            time.sleep(reply.delay)
            if reply.hold is not None:
                reply.hold.wait(60)
            return payload, reply

        def _send(self, payload: dict[str, Any], reply: Reply) -> None:
            body = reply.body if reply.body is not None else _completion(payload, reply)
            self.send_response(reply.status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **reply.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            for start in range(0, len(body), 1 if reply.drip else len(body)):
                time.sleep(reply.drip)
                self.wfile.write(body[start : start + 1] if reply.drip else body)
                self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing: tests look at ``asked``."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # connections that wait; of five, a burst of requests would lose some

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    handle.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield handle
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _completion(payload: dict[str, Any], reply: Reply) -> bytes:
    if reply.status != 200:
        return json.dumps({"error": {"message": "no", "type": "test", "code": str(reply.status)}}).encode()
    message = {"role": "assistant", "content": reply.content}
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": f"{payload['model']}-2026",
            "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13},
            **reply.more,
        }
    ).encode()

"""A small inference server as a program: it listens, says that it is healthy, and echoes what it is asked.

Run with ``--host HOST --port N`` and, to misbehave, with ``--state FOLDER``, where a file ``ends`` ends it at its
start, ``sick`` keeps it from ever being healthy, ``stubborn`` makes it ignore SIGTERM, and ``dies`` (a number in it)
ends it that many times when it is asked ``die``. It writes its process and that of a child of its own to ``pids``,
and its command line to ``argv``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> None:
    named = {arguments[index]: arguments[index + 1] for index in range(len(arguments) - 1)}
    state = Path(named["--state"])
    key = named.get("--api-key") or os.environ.get("VLLM_API_KEY")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with (state / "pids").open("a") as file:
        file.write(f"{os.getpid()}\n{child.pid}\n")
    (state / "argv").write_text(json.dumps(sys.argv))
    print("loading the model", flush=True)
    print(f"the key is {key}", flush=True)
    if (state / "ends").exists():
        sys.exit("there is no such checkpoint")
    if (state / "stubborn").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply(503 if (state / "sick").exists() else 200, {})

        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if key and self.headers["Authorization"] != f"Bearer {key}":
                self.reply(401, {"error": {"message": "wrong key"}})
                return
            text = payload["messages"][-1]["content"][-1]["text"]
            if text == "die":
                self.perhaps_die()
            message = {"role": "assistant", "content": f"{payload['model']} heard {text}"}
            self.reply(
                200,
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": payload["model"],
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                },
            )

        def perhaps_die(self) -> None:
            with lock:
                deaths = state / "dies"
                left = int(deaths.read_text()) if deaths.exists() else 0
                if left:
                    deaths.write_text(str(left - 1))
                    os.kill(os.getpid(), signal.SIGKILL)

        def reply(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server((named["--host"], int(named["--port"])), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])

"""The TypeScript client, built by npm and run by Node."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.client.scripted_server import ScriptedServer
from tests.clients.behaviour import CLIENTS, ROOT, ClientBehaviour, build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # most of it for npm, on a slow day
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm: apt-get install nodejs npm"),
]
FOLDER = CLIENTS / "typescript"


@pytest.fixture(scope="module")
def program() -> list[str]:
    build(["scripts/generate_clients", "typescript"], folder=ROOT)
    build(["npm", "run", "--silent", "build"], folder=FOLDER)
    return ["node", str(FOLDER / "dist" / "examples" / "submit-and-watch.js")]


class TestTypeScript(ClientBehaviour):
    pass


LEAVE_EARLY = """
import { connect, watchJob } from "MODULE";
for await (const event of watchJob(connect(process.argv[1]), "job-1")) {
  console.log(`event ${event.sequence}`);
  break;
}
"""


def test_a_watch_that_is_left_early_ends_with_its_program(program: list[str]) -> None:
    server = ScriptedServer()
    server.servicer.add_job()
    script = LEAVE_EARLY.replace("MODULE", str(FOLDER / "dist" / "src" / "index.js"))
    try:
        done = subprocess.run(
            ["node", "--input-type=module", "-e", script, server.address], capture_output=True, text=True, timeout=60
        )
    finally:
        server.stop()
    assert done.stdout == "event 1\n", done.stderr

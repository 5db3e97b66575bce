"""The TypeScript client, built by npm and run by Node."""

from __future__ import annotations

import shutil

import pytest

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

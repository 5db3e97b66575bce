"""The Ruby client, with Debian's gems."""

from __future__ import annotations

import shutil

import pytest

from tests.clients.behaviour import CLIENTS, ROOT, ClientBehaviour, build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("grpc_ruby_plugin") is None or shutil.which("grpc_tools_ruby_protoc") is None,
        reason="needs gRPC for Ruby: apt-get install ruby-grpc ruby-grpc-tools protobuf-compiler-grpc",
    ),
]


@pytest.fixture(scope="module")
def program() -> list[str]:
    build(["scripts/generate_clients", "ruby"], folder=ROOT)
    return ["ruby", str(CLIENTS / "ruby" / "bin" / "submit-and-watch")]


class TestRuby(ClientBehaviour):
    pass

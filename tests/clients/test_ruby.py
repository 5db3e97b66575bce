"""The Ruby client, with Debian's gems."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.client.scripted_server import ScriptedServer
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


OWN_CALL_FAILS = """
begin
  LmmsEvalGrpc::Client.new(ARGV[0]).watch("job-1") { |event| raise GRPC::Unavailable, "of event #{event.sequence}" }
rescue GRPC::Unavailable => e
  puts e.details
end
"""


def test_an_error_of_the_block_is_no_lost_connection(program: list[str]) -> None:
    server = ScriptedServer()
    server.servicer.add_job()
    folders = [word for name in ("lib", "gen") for word in ("-I", str(CLIENTS / "ruby" / name))]
    try:
        done = subprocess.run(
            ["ruby", *folders, "-r", "lmms_eval_grpc", "-e", OWN_CALL_FAILS, server.address],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        server.stop()
    assert done.stdout == "of event 1\n", done.stderr

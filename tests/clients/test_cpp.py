"""The C++ client, built by CMake against Debian's gRPC."""

from __future__ import annotations

import shutil

import pytest

from tests.clients.behaviour import CLIENTS, ClientBehaviour, build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # most of it to compile the generated code, on a slow day
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("g++", "cmake", "pkg-config", "grpc_cpp_plugin")),
        reason="needs g++ and gRPC for C++: apt-get install g++ cmake pkg-config libgrpc++-dev libprotobuf-dev"
        " protobuf-compiler-grpc",
    ),
]
FOLDER = CLIENTS / "cpp"


@pytest.fixture(scope="module")
def program() -> list[str]:
    build(
        ["cmake", "-S", ".", "-B", "build"],
        ["cmake", "--build", "build", "--parallel", "2"],
        folder=FOLDER,
    )
    return [str(FOLDER / "build" / "submit_and_watch")]


class TestCpp(ClientBehaviour):
    pass

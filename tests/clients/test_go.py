"""The Go client, where a Go toolchain is: with Debian's sources of gRPC if they are there, else from modules."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.clients.behaviour import CLIENTS, ROOT, ClientBehaviour, build

SOURCES = Path(os.environ.get("DEBIAN_GOCODE", "/usr/share/gocode"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # most of it to compile gRPC, on a slow day
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("go", "protoc-gen-go", "protoc-gen-go-grpc")),
        reason="needs Go 1.21, protoc-gen-go 1.36 and protoc-gen-go-grpc: clients/go/README.md",
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("go")
    build(["scripts/generate_clients", "go"], folder=ROOT)
    compile_it = ["go", "build", "-o", str(folder / "submit-and-watch"), "./cmd/submit-and-watch"]
    if (SOURCES / "src/google.golang.org/grpc").exists():
        # Debian's sources are no modules: the client must lie beside them under its own path.
        package = folder / "src/github.com/lmms-eval-grpc/lmms-eval-grpc/clients/go"
        shutil.copytree(CLIENTS / "go", package)
        build(["env", "GO111MODULE=off", f"GOPATH={folder}:{SOURCES}", *compile_it], folder=package)
    else:
        build(["go", "mod", "tidy"], compile_it, folder=CLIENTS / "go")
    return [str(folder / "submit-and-watch")]


class TestGo(ClientBehaviour):
    pass

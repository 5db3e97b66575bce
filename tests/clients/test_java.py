"""The Java client, built by Maven from Debian's jars."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.clients.behaviour import CLIENTS, ROOT, ClientBehaviour, build

JARS = Path("/usr/share/java")
MAVEN_REPOSITORY = Path("/usr/share/maven-repo")
FOLDER = CLIENTS / "java"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # most of it to compile the generated code, on a slow day
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("javac", "mvn", "grpc_java_plugin"))
        or not (JARS / "grpc-stub.jar").exists()
        or not (MAVEN_REPOSITORY / "org/codehaus/mojo/build-helper-maven-plugin").exists(),
        reason="needs Maven and gRPC for Java: apt-get install default-jdk-headless maven maven-debian-helper"
        " libgrpc-java libnetty-java libbuild-helper-maven-plugin-java protobuf-compiler-grpc-java-plugin",
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    # Links, because Maven writes into its repository.
    repository = tmp_path_factory.mktemp("maven") / "repository"
    build(
        ["scripts/generate_clients", "java"],
        ["cp", "--recursive", "--symbolic-link", str(MAVEN_REPOSITORY), str(repository)],
        folder=ROOT,
    )
    build(["mvn", "--quiet", "--offline", f"-Dmaven.repo.local={repository}", "compile"], folder=FOLDER)
    names = [
        *("grpc-api", "grpc-context", "grpc-core", "grpc-netty", "grpc-protobuf", "grpc-protobuf-lite", "grpc-stub"),
        *("netty-buffer", "netty-codec", "netty-codec-http", "netty-codec-http2", "netty-common", "netty-handler"),
        *("netty-handler-proxy", "netty-resolver", "netty-transport", "netty-transport-native-unix-common"),
        *("guava", "perfmark-api", "proto-google-common-protos", "protobuf"),
    ]
    path = ":".join([str(FOLDER / "target" / "classes"), *(str(JARS / f"{name}.jar") for name in names)])
    return ["java", "-cp", path, "io.lmms_eval_grpc.examples.SubmitAndWatch"]


class TestJava(ClientBehaviour):
    pass

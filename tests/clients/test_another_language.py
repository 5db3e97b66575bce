"""The template that clients/README.md gives for languages without a client."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.clients.behaviour import CLIENTS, ROOT, build


@pytest.mark.skipif(
    shutil.which("protoc") is None or shutil.which("grpc_php_plugin") is None,
    reason="needs gRPC's plug-ins: apt-get install protobuf-compiler protobuf-compiler-grpc",
)
def test_the_template_generates(tmp_path: Path) -> None:
    (template,) = re.findall(r"```yaml\n(.*?)```", (CLIENTS / "README.md").read_text(), re.DOTALL)
    (tmp_path / "buf.gen.yaml").write_text(template)
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    build(["buf", "generate"], folder=tmp_path)
    assert list((tmp_path / "gen/php").rglob("EvaluationServiceClient.php"))
    assert list((tmp_path / "gen/php").rglob("JobEvent.php"))

"""The contract's promises: it only grows, and any generator can read it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copied_protos(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def buf(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("buf")), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_breaking_check_catches_a_renumbered_field(copied_protos: Path) -> None:
    against = ("breaking", "--against", "protos/released.binpb")
    assert buf(copied_protos, *against).returncode == 0
    proto = copied_protos / "protos/lmms_eval_grpc/v1/job.proto"
    text = proto.read_text()
    assert "string job_id = 1;" in text
    proto.write_text(text.replace("string job_id = 1;", "string job_id = 99;", 1))
    broken = buf(copied_protos, *against)
    assert broken.returncode != 0
    assert "job_id" in broken.stdout


def test_protos_import_nothing_but_protobufs_own_files() -> None:
    for proto in (ROOT / "protos/lmms_eval_grpc/v1").glob("*.proto"):
        for line in proto.read_text().splitlines():
            if line.startswith("import "):
                assert line.startswith(('import "google/protobuf/', 'import "lmms_eval_grpc/v1/')), f"{proto}: {line}"

"""The file that keeps a job's secrets."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.record.redact import REDACTED
from lmms_eval_grpc.jobs import secrets
from lmms_eval_grpc.jobs.secrets import PLACEHOLDER, SECRETS_FILE, Secrets, SecretsLost
from lmms_eval_grpc.jobs.spec import EvaluationSpec, MergeSpec

FULL = EvaluationSpec("openai", ("t",), {"model": "m", "api_key": "the-key-1234"})
SHOWN = replace(FULL, model_args={"model": "m", "api_key": PLACEHOLDER})
KEPT = Secrets({"model_args": FULL.model_args}, ("the-key-1234",))


def test_a_specification_is_completed_from_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "j"
    secrets.write(folder, KEPT)
    assert stat.S_IMODE((folder / SECRETS_FILE).stat().st_mode) == 0o600
    assert secrets.complete(SHOWN, folder) == FULL
    assert secrets.complete(FULL, folder) is FULL
    assert secrets.complete(MergeSpec("/c"), folder) == MergeSpec("/c")
    assert PLACEHOLDER == REDACTED


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"fields": {}}', '{"fields": {}, "values": []}'])
def test_secrets_that_are_lost_are_told(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / SECRETS_FILE).write_text(text)
    with pytest.raises(SecretsLost, match="submit the evaluation again") as caught:
        secrets.complete(SHOWN, tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_numbers_of_results_stay_where_a_secret_is_digits_only(tmp_path: Path) -> None:
    secrets.write(tmp_path, Secrets({"model_args": {}}, ("123456",)))
    (tmp_path / "results.json").write_text(json.dumps({"score": 0.1234567, "tokens": 123456}))
    secrets.clear(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == {"score": 0.1234567, "tokens": 123456}


def test_what_is_kept_is_not_printed() -> None:
    assert "the-key" not in repr(KEPT)


def test_an_ended_job_keeps_no_secret_in_its_folder(tmp_path: Path) -> None:
    secrets.write(tmp_path, Secrets({"model_args": {}}, ('quo"ted-é', "the-key-1234")))
    (tmp_path / "results").mkdir()
    told = {"a": 'x quo"ted-é', "b": "the-key-1234 " * 3}
    (tmp_path / "results" / "r.json").write_text(json.dumps(told))
    # Across the border of two blocks, too.
    size = secrets._BLOCK
    (tmp_path / "worker.log").write_bytes(b"." * (size - 5) + b"the-key-1234" + b"." * size + b"the-key-1234\n")
    (tmp_path / "link").symlink_to(tmp_path / "results" / "r.json")
    before = (tmp_path / "worker.log").stat().st_size
    secrets.clear(tmp_path)
    assert not (tmp_path / SECRETS_FILE).exists()
    log = (tmp_path / "worker.log").read_bytes()
    assert (len(log), log.count(b"*"), log.count(b"key")) == (before, 24, 0)
    results = json.loads((tmp_path / "results" / "r.json").read_text())
    assert results["b"] == f"{'*' * 12} " * 3
    assert set(results["a"]) == {"x", " ", "*"}
    secrets.clear(tmp_path)  # again does no harm


def test_a_file_that_cannot_be_overwritten_keeps_no_secret_from_being_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secrets.write(tmp_path, KEPT)
    program = tmp_path / "a-program"
    shutil.copy(shutil.which("sleep") or "", program)
    (tmp_path / "worker.log").write_text("the-key-1234")
    with subprocess.Popen([program, "600"]) as running:  # nobody may write to a program that runs
        try:
            secrets.clear(tmp_path)
        finally:
            running.kill()
    assert not (tmp_path / SECRETS_FILE).exists()
    assert (tmp_path / "worker.log").read_text() == "*" * 12
    assert "a-program may hold secrets" in caplog.text


def test_what_an_earlier_server_left_is_cleared_but_not_of_jobs_that_go_on(tmp_path: Path) -> None:
    for name in ("ended", "waits"):
        secrets.write(tmp_path / name, KEPT)
    secrets.clear_others(tmp_path, {"waits"})
    assert [path.parent.name for path in tmp_path.rglob(SECRETS_FILE)] == ["waits"]
    secrets.withdraw(tmp_path / "waits")
    assert not (tmp_path / "waits").exists()

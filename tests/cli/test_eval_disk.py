"""``eval`` where its results cannot go: a disk that is full, and then is not, and a folder that takes nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from lmms_eval_grpc.cli.exit_codes import ExitCode
from tests.cli.conftest import TASK, command
from tests.support.small_disk import mounted, remount

PATIENCE = 240.0


def evaluate(env: Mapping[str, str], checkpoint: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    chosen = ("--model", "idefics3", "--model_args", f"pretrained={checkpoint}", "--tasks", TASK)
    line = command(*words, "eval", *chosen, "--limit", "5", "--output_path", str(out), "--log_samples")
    return subprocess.run(line, env=dict(env), capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize("pages", [1, 3])
def test_a_full_disk_is_told_and_the_same_command_goes_on_when_there_is_space(
    manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path, pages: int
) -> None:
    """With one page the samples' records do not fit, with three the results do not."""
    with mounted(tmp_path / "small", f"size={4 * pages}k") as disk:
        out = disk / "r"
        full = evaluate(manners, tiny_checkpoint, out)
        assert full.returncode == ExitCode.JOB_FAILED, full.stderr
        assert full.stdout == ""
        assert "failed (DISK_FULL): OSError: [Errno 28] No space left on device" in full.stderr
        assert "; free space on the disk and run the same command again to go on" in full.stderr
        assert "Traceback" not in full.stderr
        published = [path for path in out.rglob("*") if ".unfinished" not in path.parts and path.is_file()]
        assert published == [], "of the results there are all files or none"
        as_json = evaluate(manners, tiny_checkpoint, out, "--json")
        assert as_json.returncode == ExitCode.JOB_FAILED
        assert json.loads(as_json.stderr.splitlines()[-1])["error"]["reason"] == "DISK_FULL"

        answered = sum(path.read_text().count('"kind": "answer"') for path in out.rglob("run_log.jsonl"))
        remount(disk, "size=1m")
        done = evaluate(manners, tiny_checkpoint, out)
        assert done.returncode == ExitCode.OK, done.stderr
        (path,) = out.rglob("*_results.json")
        document = json.loads(path.read_text())
        assert document["n-samples"][TASK]["effective"] == 5
        assert document["throughput"]["samples_resumed"] == answered
        assert (answered == 5) == (pages == 3), answered
        (samples,) = out.rglob("*_samples_*.jsonl")
        assert len(samples.read_text().splitlines()) == 5
        assert not (out / ".unfinished").exists()


def test_a_disk_without_room_for_a_folder_is_full_too(
    manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "small", "nr_inodes=1") as disk:
        full = evaluate(manners, tiny_checkpoint, disk / "r")
        assert full.returncode == ExitCode.JOB_FAILED, full.stderr
        assert "failed (DISK_FULL)" in full.stderr
        assert "Traceback" not in full.stderr


def test_an_output_folder_that_nothing_may_be_written_to(
    manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    in_the_way = out / "__".join(tiny_checkpoint.parts[-2:])
    in_the_way.write_text("not a folder")
    blocked = evaluate(manners, tiny_checkpoint, out)
    assert blocked.returncode == ExitCode.JOB_FAILED, blocked.stderr
    assert f"failed (OUTPUT_NOT_WRITABLE): the results cannot be written to {str(in_the_way)!r}" in blocked.stderr
    assert "Traceback" not in blocked.stderr
    with mounted(tmp_path / "read-only", "ro") as disk:
        refused = evaluate(manners, tiny_checkpoint, disk / "r")
        assert refused.returncode == ExitCode.USAGE, refused.stderr
        assert f"--output_path {disk / 'r'}: cannot be written to: [Errno 30] Read-only" in refused.stderr
        assert "Traceback" not in refused.stderr

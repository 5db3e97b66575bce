"""Temporary files of workers are gone with them, however they came to their end."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.data import folders
from lmms_eval_grpc.executors import scratch
from lmms_eval_grpc.jobs.events import Completed, Failed
from tests.executors.conftest import Jobs, collect, wait_for_log

pytestmark = pytest.mark.asyncio(loop_scope="module")


def links_to(folder: Path) -> list[str]:
    """Links in the machine's folder for temporary files that lead into ``folder``; other tests make some, too."""
    machine = Path(tempfile.gettempdir())
    found = []
    for link in machine.glob("lmms-eval-grpc-*"):
        with contextlib.suppress(OSError):  # it is no link, or gone by now
            if link.readlink().is_relative_to(folder):
                found.append(str(link))
    return found


def is_gone(path: Path) -> bool:
    """Whether there is neither a file, a folder nor a link."""
    return not os.path.lexists(path)


async def test_nothing_is_left_of_what_a_killed_worker_put_into_its_temporary_folder(
    jobs: Jobs,
) -> None:
    execution, job_dir = await jobs.start(jobs.spec("litter"))
    left = (await wait_for_log(job_dir, r"left: (.+)"))[1].split()
    reports = await collect(execution)
    assert isinstance(reports[-1], Failed)
    assert reports[-1].error.reason == "WORKER_KILLED"
    place = scratch.environment(job_dir)["TMPDIR"]
    assert len(left) == 3
    assert all(path.startswith(f"{place}/") for path in left)
    assert len(left[0]) <= 107  # the socket's
    assert is_gone(Path(place))
    assert is_gone(job_dir / scratch.FOLDER)
    assert not links_to(job_dir)


async def test_a_worker_that_does_well_leaves_no_temporary_folder_either(jobs: Jobs) -> None:
    reports, job_dir = await jobs.run(jobs.spec("well_behaved"))
    assert isinstance(reports[-1], Completed)
    assert not (job_dir / scratch.FOLDER).exists()


@pytest.mark.parametrize("depth", ["short", "deep"])
async def test_what_a_dead_server_left_is_removed_by_the_next(
    jobs: Jobs, depth: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with tempfile.TemporaryDirectory() as short:
        job_dir = Path(short) / "job" if depth == "short" else tmp_path_factory.mktemp("x" * 60) / "job"
        scratch.make(job_dir)
        scratch.make(job_dir)  # the next attempt's
        place = Path(scratch.environment(job_dir)["TMPDIR"])
        assert (place == job_dir / scratch.FOLDER) is (depth == "short")
        (place / "weights.bin").write_bytes(b"x")
        assert (job_dir / scratch.FOLDER / "weights.bin").exists()
        await jobs.executor.clear_leftovers([job_dir])
        assert job_dir.is_dir()
        assert list(job_dir.iterdir()) == []
        assert is_gone(place)
        await jobs.executor.clear_leftovers([job_dir, Path(short) / "never there"])


async def test_what_is_to_outlive_a_job_does_not_lie_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in scratch.environment(tmp_path / "job", {}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LMMS_EVAL_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", "/network")
    monkeypatch.setattr(folders, "is_on_network", lambda path: str(path) == "/network")
    machine = Path(os.environ[scratch.MACHINE_TMPDIR])
    cache = folders.datasets_cache()
    assert cache is not None
    assert cache.is_relative_to(machine)
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent == machine
    assert "TORCHINDUCTOR_CACHE_DIR" not in scratch.environment(tmp_path, {"TORCHINDUCTOR_CACHE_DIR": "/elsewhere"})

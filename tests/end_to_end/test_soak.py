"""Jobs leave nothing behind in a server: the soak of ``benchmarks/soak.py``, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import POOLED_THREADS, Soak

JOBS = 40


@pytest.mark.slow
def test_dozens_of_jobs_leave_no_descriptors_threads_processes_or_files(tmp_path: Path) -> None:
    with Soak(tmp_path, keep=10) as soak:
        verdict = soak.run(JOBS, burst=10, watchers=2, every=10)
        before, after = soak.samples[0], soak.samples[-1]
    assert verdict["every_job_ended_once"], verdict
    assert soak.ends["failed"] == 0
    assert soak.ends["completed"] > JOBS / 2
    # A leak of one per job would be several times as much.
    assert after.server_descriptors <= before.server_descriptors + 10
    assert after.server_threads <= before.server_threads + POOLED_THREADS
    assert after.template_descriptors <= before.template_descriptors
    assert after.processes <= before.processes
    assert after.job_folders <= 10
    assert verdict["temporary_files_left"] == 0
    assert soak.process.returncode == 0

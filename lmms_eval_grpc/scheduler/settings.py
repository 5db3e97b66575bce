"""What an operator can choose about the scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Bounds and times of the scheduler."""

    jobs_dir: Path
    """Holds one folder per job, named by its id."""
    max_queued_jobs: int = 1000
    """Jobs that may wait at once; more are refused."""
    max_jobs_per_owner: int | None = None
    """Jobs of one owner that may wait or run at once. None: no bound but that of the queue."""
    max_submissions_per_minute: int | None = None
    """Jobs that one owner may submit in a minute, in bursts of as many. None: no bound."""
    max_finished_jobs: int = 1000
    """Ended jobs that are kept, newest first."""
    finished_job_ttl: float | None = None
    """Seconds for which an ended job is kept. None: only their number counts."""
    max_attempts: int = 5
    """Attempts that may end with the server itself (killed, crashed, lost power), or with the machine that ran them,
    before a job has failed. Those that an orderly stop of the server ends do not count."""
    progress_interval: float = 0.25
    """Least seconds between two recorded progress reports of one job."""
    stop_timeout: float = 15.0
    """Seconds that :meth:`Scheduler.stop` gives running jobs to be put back, once their workers are gone."""

    @property
    def pause_file(self) -> Path:
        """Is there while the queue is paused: beside the jobs' folder."""
        return self.jobs_dir.with_name("paused")

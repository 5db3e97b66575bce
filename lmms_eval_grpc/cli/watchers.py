"""Two ways to show a job that is being watched: lines for logs and pipes, live bars for a terminal with rich."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from lmms_eval_grpc.cli.following import JobView, describe_pace, describe_progress
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.words import format_metric, format_time, name_state
from lmms_eval_grpc.v1 import job_pb2

if TYPE_CHECKING:
    from rich.console import Console, Group

PROGRESS_INTERVAL = 5.0
"""Seconds between two progress lines."""


class Watcher(Protocol):
    """Shows a job while the block lasts."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show_job(self, job: job_pb2.Job) -> None:
        """The job as it is."""

    def show_event(self, event: job_pb2.JobEvent) -> None:
        """What happened to it."""


def make_watcher(output: Output, title: str, print_line: Callable[[str], None] | None = None) -> Watcher:
    """Bars where rich is in use, lines elsewhere; ``title`` names what is watched, such as ``job 3f2a``."""
    if output.console is not None:
        return LiveWatcher(output.console, title)
    return LineWatcher(print_line or output.line, title)


class LineWatcher:
    """A line for each state and each task result, and now and then one for the progress."""

    def __init__(
        self, print_line: Callable[[str], None], title: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._print = print_line
        self._clock = clock
        self._view = JobView(title)
        self._last_progress: tuple[float, int, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show_job(self, job: job_pb2.Job) -> None:
        self._view = self._view.with_job(job)
        self._print(f"{self._view.title}: {self._view.describe_state()}")
        for task in self._view.tasks.values():
            if task.result is not None:
                self._print(describe_result(task.result))

    def show_event(self, event: job_pb2.JobEvent) -> None:
        self._view = self._view.with_event(event)
        match event.WhichOneof("event"):
            case "state_change":
                self._tell(event, describe_change(event.state_change))
            case "task_result":
                self._tell(event, describe_result(event.task_result))
            case "progress" if self._due(event.progress):
                self._tell(event, describe_progress(event.progress))

    def _tell(self, event: job_pb2.JobEvent, words: str) -> None:
        self._print(f"{format_time(event.event_time).partition(' ')[2]}  {words}")

    def _due(self, progress: job_pb2.Progress) -> bool:
        """Whether to show it: the first of a stage or task, or the last shown one is old."""
        now = self._clock()
        last = self._last_progress
        if last is not None and last[1:] == (progress.stage, progress.task) and now - last[0] < PROGRESS_INTERVAL:
            return False
        self._last_progress = (now, progress.stage, progress.task)
        return True


class LiveWatcher:
    """A bar per task and one line for the job, redrawn in place."""

    def __init__(self, console: Console, title: str) -> None:
        from rich.live import Live

        self._console = console
        self._view = JobView(title)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show_job(self, job: job_pb2.Job) -> None:
        self._view = self._view.with_job(job)

    def show_event(self, event: job_pb2.JobEvent) -> None:
        self._view = self._view.with_event(event)
        if event.HasField("state_change"):
            self._live.refresh()

    def _render(self) -> Group:
        """Drawn from another thread; the view is immutable, so it is always a consistent one."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        view = self._view
        words = f"{view.title}  {view.describe_state()}"
        grid = Table.grid(padding=(0, 2))
        for name, task in view.tasks.items():
            current = view.progress is not None and view.progress.task == name and task.result is None
            if task.result is not None:
                remark = "; ".join(format_metric(metric) for metric in task.result.metrics)
            else:
                remark = ", ".join(describe_pace(view.progress)) if current and view.progress else ""
            grid.add_row(
                Text(name, no_wrap=True),
                ProgressBar(total=max(task.total, 1), completed=task.done, width=24),
                Text(f"{task.done}/{task.total}" if task.total else "", no_wrap=True),
                Text(remark, no_wrap=True, overflow="ellipsis"),
            )
        return Group(Text(words) if view.ended else Spinner("dots", text=Text(words)), grid)


def describe_change(change: job_pb2.StateChange) -> str:
    """``running (attempt 2): server restarted``."""
    words = name_state(change.state)
    if change.attempt > 1:
        words += f" (attempt {change.attempt})"
    return f"{words}: {change.reason}" if change.reason else words


def describe_result(result: job_pb2.TaskResult) -> str:
    """``task digits: exact_match 0.912 ± 0.013 (120 scored, 0 errored)``."""
    metrics = "; ".join(format_metric(metric) for metric in result.metrics) or "no metric"
    skipped = f", {result.samples.skipped} skipped" if result.samples.skipped else ""
    return f"task {result.task}: {metrics} ({result.samples.scored} scored, {result.samples.errored} errored{skipped})"

"""The screen of ``top``: a Textual application that draws a `Board`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Footer, Header, Label, Static

from lmms_eval_grpc.cli.board import WAITING_SHOWN, Board
from lmms_eval_grpc.cli.following import JobView, describe_pace
from lmms_eval_grpc.cli.words import (
    format_labels,
    format_seconds,
    format_short_time,
    measure_duration,
    name_state,
    pick_headline,
    shorten,
)
from lmms_eval_grpc.client import AsyncEvalClient, EvalServiceError
from lmms_eval_grpc.v1 import job_pb2

_REDRAW = 0.5
"""Seconds between two drawings, at most so often."""
_BAR = 20
"""Characters of a progress bar."""
_WIDTH = 48
"""Characters of a text that may be long."""


class Top(App[None]):
    """Devices with what they do, the queue, and the scores of the jobs that ended last."""

    TITLE = "lmms-eval-grpc"
    CSS = """
    Label { padding: 1 1 0 1; text-style: bold; }
    #summary, #connection { padding: 0 1; }
    DataTable { height: auto; max-height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("q", "quit", "Leave")]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, address: str, **credentials: Any) -> None:
        """Checks the address and the credentials, as the client has them."""
        super().__init__()
        self._client = AsyncEvalClient(address, reconnect_timeout=None, **credentials)
        self.board = Board(self._client, self._note_change)
        self.failure: EvalServiceError | None = None
        """Why there is nothing to see any more; None while all is well, or the user has left."""
        self.sub_title = address
        self._redraw_due = True
        self._connection_log = _ConnectionLog(self)

    def compose(self) -> ComposeResult:
        yield Header()
        yield Static("asking the server …", id="summary", markup=False)
        yield Static("", id="connection", markup=False)
        for table_id, title, columns in (
            ("devices", "Devices", ("device", "job", "what", "state", "progress", "pace")),
            ("queue", "Queue", ("#", "job", "what", "priority", "labels", "submitted")),
            ("recent", "Ended last", ("job", "what", "state", "score", "took", "ended")),
        ):
            yield Label(title)
            table: DataTable[Text] = DataTable(id=table_id, cursor_type="row", zebra_stripes=True)
            table.add_columns(*columns)
            yield table
        yield Footer()

    def on_mount(self) -> None:
        self._connection_log.attach()
        self.run_worker(self._follow())
        self.set_interval(_REDRAW, self._draw)

    def on_unmount(self) -> None:
        self._connection_log.detach()

    async def _follow(self) -> None:
        # The client ends with its user, which Textual cancels in its own time.
        try:
            async with self._client:
                await self.board.follow()
        except* EvalServiceError as group:  # one that no waiting mends
            self.failure = next(_leaves(group))
            self.exit()

    def show_connection(self, words: str) -> None:
        """Tells how the connection is; nothing while all is well."""
        self.query_one("#connection", Static).update(words)

    def _note_change(self) -> None:
        self._redraw_due = True

    def _draw(self) -> None:
        queue = self.board.queue
        if queue is None or not (self._redraw_due or queue["running_jobs"]):
            return
        self._redraw_due = False
        self.query_one("#summary", Static).update(describe_queue(queue))
        self._fill("devices", [self._device(slot) for slot in queue["slots"]])
        waiting = queue["queued_jobs"]
        rows = [self._waiting(place, job_id) for place, job_id in enumerate(waiting[:WAITING_SHOWN])]
        if len(waiting) > WAITING_SHOWN:
            rows.append((f"and {len(waiting) - WAITING_SHOWN} more", *[""] * 5))
        self._fill("queue", rows)
        self._fill("recent", [_ended(job) for job in self.board.recent])

    def _fill(self, table_id: str, rows: Iterable[tuple[str, ...]]) -> None:
        table = self.query_one(f"#{table_id}", DataTable)
        place = table.cursor_row
        table.clear()
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # never markup: names come from users
        table.move_cursor(row=place)

    def _device(self, slot: dict[str, Any]) -> tuple[str, ...]:
        job_id = slot["job_id"]
        if job_id is None:
            return (slot["device"], "free", "", "", "", "")
        view = self.board.running.get(job_id)
        state = view.describe_state() if view else "running"
        pace = ", ".join(describe_pace(view.progress)) if view and view.progress else ""
        return (slot["device"], job_id, _subject(self.board.job(job_id)), state, draw_bar(view), pace)

    def _waiting(self, place: int, job_id: str) -> tuple[str, ...]:
        job = self.board.job(job_id)
        if job is None:
            return (str(place), job_id, "", "", "", "")
        labels = shorten(format_labels(job.labels.items()), _WIDTH)
        return (str(place), job_id, _subject(job), str(job.priority), labels, format_short_time(job.create_time))


def _leaves(group: BaseExceptionGroup[EvalServiceError]) -> Iterator[EvalServiceError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class _ConnectionLog(logging.Handler):
    """What the client logs about its connection goes to the screen, not over it."""

    def __init__(self, app: Top) -> None:
        super().__init__(logging.INFO)
        self._app = app
        self._logger = logging.getLogger("lmms_eval_grpc.client")
        self._before = (self._logger.level, self._logger.propagate)

    def attach(self) -> None:
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False

    def detach(self) -> None:
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        well = record.levelno < logging.WARNING
        self._app.show_connection("" if well else record.getMessage())


def describe_queue(queue: dict[str, Any]) -> str:
    """``accepting jobs; 1 running, 3 of 1000 waiting; ended: 5 completed, 1 failed, 0 cancelled``."""
    state = "accepting jobs" if queue["accepting"] else "not accepting jobs"
    if queue["draining"]:
        state = "draining"
    if queue["paused"]:
        state = f"paused: {queue['pause_reason']}" if queue["pause_reason"] else "paused"
    if queue["trouble"]:
        state += f", in trouble: {queue['trouble']}"
    return (
        f"{state}; {len(queue['running_jobs'])} running, {queue['queue_size']} of {queue['capacity']} waiting; ended: "
        f"{queue['completed_jobs']} completed, {queue['failed_jobs']} failed, {queue['cancelled_jobs']} cancelled"
    )


def draw_bar(view: JobView | None) -> str:
    """``━━━━━────── 45/120``, of the whole job; empty while its size is not known."""
    if view is None or view.progress is None:
        return ""
    done, total = view.progress.samples_done, view.progress.samples_total
    if view.progress.bytes_total:
        done, total = view.progress.bytes_done, view.progress.bytes_total
        count = f"{done / total:.0%}"
    elif total:
        count = f"{done}/{total}"
    else:
        return ""
    full = min(_BAR, _BAR * done // total)
    return f"{'━' * full}{'─' * (_BAR - full)} {count}"


def _subject(job: job_pb2.Job | None) -> str:
    """``huggingface: mme,mmmu_val``, or what is merged."""
    if job is None:
        return ""
    if job.HasField("merge"):
        return shorten(f"merge {job.merge.checkpoint_path}", _WIDTH)
    return shorten(f"{job.evaluation.model}: {','.join(job.evaluation.tasks)}", _WIDTH)


def _ended(job: job_pb2.Job) -> tuple[str, ...]:
    took = measure_duration(job, time.time())
    score = pick_headline(job) or (job.error.message if job.HasField("error") else "")
    return (
        job.job_id,
        _subject(job),
        name_state(job.state),
        shorten(score, _WIDTH),
        "" if took is None else format_seconds(took),
        format_short_time(job.end_time),
    )

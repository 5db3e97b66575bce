"""What must hold afterwards, whatever was killed when. Every violation is told, not only the first."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lmms_eval_grpc.jobs.events import JobEvent, StateChange, TaskResult
from lmms_eval_grpc.jobs.job import Job
from lmms_eval_grpc.jobs.results import EvaluationResult, JobErrorCode
from lmms_eval_grpc.jobs.state import TRANSITIONS, JobState
from lmms_eval_grpc.store.base import JobFilter
from lmms_eval_grpc.store.sqlite import SqliteStore
from lmms_eval_grpc.v1 import job_pb2
from tests.faults.echo_model import BATCH, WORDS, score
from tests.faults.traffic import Submission

_FAULTS = {JobErrorCode.WORKER_DIED, JobErrorCode.STALLED}


async def violations(state_dir: Path, evidence: Path, submissions: Sequence[Submission], attempts: int) -> list[str]:
    """All that is wrong. The server must have ended; ``attempts`` is its ``max_attempts``."""
    store = SqliteStore(state_dir / "jobs.sqlite3")
    await store.open()
    try:
        jobs = {job.job_id: job for job in await store.page(JobFilter(), before_order=None, size=10_000, full=True)}
        events = {job_id: await store.events(job_id) for job_id in jobs}
    finally:
        await store.close()
    found = [*_acknowledged(jobs, submissions)]
    notes = [json.loads(line) for line in (evidence / "evidence.jsonl").read_text().splitlines()]
    found += [f"a worker found no free slot: {note}" for note in notes if note["what"] == "no slot"]
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    for note in notes:
        asked[note["job"]].update(note.get("words", ()))
    for submission in submissions:
        job = jobs.get(submission.job_id)
        if job is None:
            continue  # told above
        problems = [
            *_life(job, events[job.job_id], attempts),
            *_watched(submission, events[job.job_id]),
            *_outcome(job, submission, state_dir / "jobs" / job.job_id),
            *_asked(job, submission, asked[submission.request_id]),
        ]
        found += [f"job {job.job_id} ({job.state}, attempt {job.attempt}): {problem}" for problem in problems]
    found += _folders(state_dir, jobs)
    return found


def _acknowledged(jobs: dict[str, Job], submissions: Sequence[Submission]) -> Iterator[str]:
    for job_id, count in Counter(submission.job_id for submission in submissions).items():
        if count > 1 or job_id not in jobs:
            yield f"job {job_id!r}, acknowledged {count} times, is {'there' if job_id in jobs else 'lost'}"
    for extra in jobs.keys() - {submission.job_id for submission in submissions}:
        yield f"job {extra} was queued a second time by a request that was repeated"


def _life(job: Job, events: Sequence[JobEvent], attempts: int) -> Iterator[str]:
    changes = [event.body for event in events if isinstance(event.body, StateChange)]
    terminal = [event for event in events if event.terminal]
    if len(terminal) != 1 or events[-1] is not terminal[0] or not job.state.ended:
        yield f"its log has {len(terminal)} terminal events, and ends with {events[-1]}"
    if events[-1].sequence != job.sequence or len({event.sequence for event in events}) != len(events):
        yield f"its log ends at {events[-1].sequence}, the job at {job.sequence}"
    for before, after in itertools.pairwise(changes):
        if after.previous is not before.state or after.state not in TRANSITIONS[before.state]:
            yield f"{before.state} is followed by {after.previous} → {after.state}"
    started = [change.attempt for change in changes if change.state is JobState.RUNNING]
    if started != list(range(1, job.attempt + 1)):
        yield f"its attempts are numbered {started}"
    times = [event.time for event in events]
    if times != sorted(times):
        yield "its events' times go back"
    if job.state is JobState.FAILED:
        error = job.error
        if error is None:
            yield "it failed without an error"
        elif error.reason == "TOO_MANY_ATTEMPTS":
            if job.attempt < attempts:
                yield f"it was given up: {error.message}"
        elif error.code not in _FAULTS:
            yield f"it failed for another reason than a killed worker: {error}"


def _watched(submission: Submission, events: Sequence[JobEvent]) -> Iterator[str]:
    seen = [event.sequence for event in submission.events]
    if seen != sorted(set(seen)):
        yield f"its watcher saw sequences {seen}"
    lasting = [event.sequence for event in events if not event.supersedable]
    watched = [event.sequence for event in submission.events if not event.HasField("progress")]
    if watched != lasting:
        yield f"its watcher saw {watched}, its log has {lasting}"
    states = [event.body.state.name for event in events if isinstance(event.body, StateChange)]
    told = [
        job_pb2.JobState.Name(event.state_change.state).removeprefix("JOB_STATE_")
        for event in submission.events
        if event.HasField("state_change")
    ]
    if told != states:
        yield f"its watcher saw {told}, its log has {states}"


def _outcome(job: Job, submission: Submission, folder: Path) -> Iterator[str]:
    if submission.cancel_acknowledged and job.state not in (JobState.CANCELLED, JobState.COMPLETED, JobState.FAILED):
        yield "its cancellation was acknowledged and forgotten"
    if job.state is not JobState.COMPLETED:
        return
    if not isinstance(job.result, EvaluationResult):
        yield "it completed without a result"
        return
    (task,) = job.result.task_results
    value = task.metrics[0].value
    if (task.samples_scored, task.samples_errored, value) != (submission.samples, 0, score(submission.samples)):
        yield f"its result is {value} of {task.samples_scored} samples, not {score(submission.samples)}"
    if [result.task for result in job.task_results if isinstance(result, TaskResult)] != ["fault_words"]:
        yield f"its task results are {job.task_results}"
    records = [json.loads(line) for line in _lines(folder / "samples.jsonl")]
    if sorted(record["doc_id"] for record in records) != list(range(submission.samples)):
        yield f"its samples are {sorted(record['doc_id'] for record in records)}"
    if any(record["responses"] != [WORDS[record["doc_id"]].upper()] for record in records):
        yield "a sample has another response than the model gave"
    answers = [json.loads(line) for line in _lines(folder / "run_log.jsonl")]
    recorded = [line["doc_id"] for line in answers if line["kind"] == "answer"]
    if sorted(recorded) != list(range(submission.samples)):
        yield f"its run log has answers to {sorted(recorded)}"
    written = [
        line for path in job.result.samples_paths for line in Path(path).read_text(encoding="utf-8").splitlines()
    ]
    if len(written) != submission.samples:
        yield f"its samples file in the results has {len(written)} lines"


def _asked(job: Job, submission: Submission, asked: Counter[str]) -> Iterator[str]:
    # A worker that dies may take one batch with it that it had asked for and not recorded.
    most = submission.samples + BATCH * max(0, job.attempt - 1)
    if asked.total() > most:
        yield f"the model was asked {asked.total()} times for {submission.samples} samples"
    if job.state is JobState.COMPLETED and set(asked) != set(WORDS[: submission.samples]):
        yield f"the model was asked for {sorted(asked)}"


def _folders(state_dir: Path, jobs: Iterable[str]) -> Iterator[str]:
    for folder in (state_dir / "jobs").iterdir():
        if folder.name not in jobs:
            yield f"folder {folder.name} belongs to no job"
        for name in ("worker.json", "worker.tmp"):
            if (folder / name).exists():
                yield f"folder {folder.name} has {name} still"
        for path in folder.rglob("*.tmp*"):
            yield f"a temporary file is left: {path}"


def _lines(path: Path) -> list[str]:
    # What a killed worker left of a line ends without a newline until the next attempt cuts it off.
    return path.read_text(encoding="utf-8").splitlines()

"""What users do meanwhile: submit, submit again when no answer came, watch to the end, and change their minds."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmms_eval_grpc import AsyncEvalClient
from lmms_eval_grpc.client.errors import EvalServiceError
from lmms_eval_grpc.v1 import job_pb2

SLOTS = 2
BACKLOG = 10
"""Jobs that are open at once: enough for the slots never to be idle for want of them."""
_PASSING = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL"}


@dataclass
class Submission:
    """One job as its user sees it."""

    request_id: str
    samples: int
    arguments: dict[str, Any]
    job_id: str = ""
    cancel_acknowledged: bool = False
    events: list[job_pb2.JobEvent] = field(default_factory=list)


class Traffic:
    """Users of one server."""

    def __init__(self, address: str, evidence: Path, rng: random.Random, jobs: int) -> None:
        self.submissions: list[Submission] = []
        self._evidence = evidence
        self._jobs = jobs
        self._address = address
        self._rng = rng
        self.answers_lost = 0
        self._open = 0

    @property
    def idle(self) -> bool:
        """Whether no job is open."""
        return self._open == 0

    async def run(self, may_submit: Callable[[float], bool], done: Callable[[], bool]) -> None:
        """Until every job has ended. ``may_submit`` is asked, with the share that was submitted, before each job. There
        are as many as were asked for, and more until ``done``."""
        places = asyncio.Semaphore(BACKLOG)
        client = AsyncEvalClient(self._address, timeout=20.0, reconnect_timeout=None)
        async with client, asyncio.TaskGroup() as users:
            while len(self.submissions) < self._jobs or not done():
                await places.acquire()
                while not may_submit(len(self.submissions) / self._jobs):  # noqa: ASYNC110 - others' progress
                    await asyncio.sleep(0.02)
                submission = _draw(self._rng, self._evidence)
                self.submissions.append(submission)
                self._open += 1
                users.create_task(self._use(client, submission, places))

    async def _use(self, client: AsyncEvalClient, submission: Submission, places: asyncio.Semaphore) -> None:
        try:
            submission.job_id = await self._submit(client, submission)
            async with asyncio.TaskGroup() as doing:
                doing.create_task(_watch(client, submission))
                if self._rng.random() < 0.08:
                    doing.create_task(self._cancel(client, submission))
        finally:
            self._open -= 1
            places.release()

    async def _submit(self, client: AsyncEvalClient, submission: Submission) -> str:
        while True:
            try:
                answer = await client.evaluate(**submission.arguments, request_id=submission.request_id)
                return str(answer["job_id"])
            except EvalServiceError as error:
                if error.code not in _PASSING:
                    raise
                self.answers_lost += 1
            await asyncio.sleep(self._rng.uniform(0.05, 0.3))

    async def _cancel(self, client: AsyncEvalClient, submission: Submission) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 2.0))
        try:
            await client.cancel_job(submission.job_id, "changed my mind")
        except EvalServiceError as error:
            if error.code not in _PASSING:
                raise
        else:
            submission.cancel_acknowledged = True


async def _watch(client: AsyncEvalClient, submission: Submission) -> None:
    async for event in client.watch_job(submission.job_id):
        submission.events.append(event)


def _draw(rng: random.Random, evidence: Path) -> Submission:
    request_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    samples = rng.randint(2, 12)
    arguments: dict[str, Any] = {
        "model": "fault_echo",
        "tasks": ["fault_words"],
        "limit": samples,
        "priority": rng.choice([0, 0, 0, 1]),
        "model_args": {
            "job": request_id,
            "evidence": str(evidence),
            "seconds": rng.uniform(0.0, 0.06),
            "slots": SLOTS,
        },
    }
    if rng.random() < 0.7:
        arguments["retry_policy"] = {"max_attempts": rng.randint(2, 6)}
    return Submission(request_id, samples, arguments)

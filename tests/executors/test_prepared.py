"""Workers that are prepared ahead."""

from __future__ import annotations

import asyncio

from lmms_eval_grpc.executors.prepared import PreparedWorkers
from lmms_eval_grpc.executors.worker_process import WorkerProcess
from lmms_eval_grpc.jobs.secrets import SecretsLost
from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob
from tests.scheduler.doubles import until


async def test_a_job_whose_secrets_are_lost_keeps_no_other_from_being_prepared() -> None:
    asked: list[str] = []

    async def fork(order: RunJob, decided: asyncio.Event) -> WorkerProcess | None:
        asked.append(order.job_id)
        return None

    def lost() -> RunJob:
        raise SecretsLost

    prepared = PreparedWorkers(fork)
    prepared.expect({"lost": lost, "other": lambda: RunJob(job_id="other")})
    await until(lambda: asked == ["other"])
    await prepared.stop()

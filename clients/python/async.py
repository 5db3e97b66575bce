"""Evaluates several checkpoints at once and prints each score as soon as it is there.

python clients/python/async.py ADDRESS TASK CHECKPOINT…
"""

from __future__ import annotations

import asyncio
import sys

from lmms_eval_grpc import AsyncEvalClient, JobFailed


async def score(client: AsyncEvalClient, task: str, checkpoint: str) -> None:
    job = await client.evaluate("huggingface", [task], {"pretrained": checkpoint})
    async for event in client.watch_job(job["job_id"]):
        if event.HasField("task_result"):
            for metric in event.task_result.metrics:
                print(f"{checkpoint} {metric.name} = {metric.value:.4f} ± {metric.standard_error:.4f}", flush=True)
    await client.wait_for_job(job["job_id"], verbose=False)  # raises JobFailed if it did


async def main(address: str, task: str, *checkpoints: str) -> int:
    async with AsyncEvalClient(address) as client:
        outcomes = await asyncio.gather(*(score(client, task, each) for each in checkpoints), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, JobFailed)]
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))

"""Submits a checkpoint, watches it to its end and prints its metrics.

    python clients/python/sync.py ADDRESS CHECKPOINT TASK [MODEL]

A watch reconnects and resumes by itself: a server that is restarted meanwhile costs nothing.
"""

from __future__ import annotations

import math
import sys

from lmms_eval_grpc import EvalClient, InvalidRequest
from lmms_eval_grpc.v1 import job_pb2


def main(address: str, checkpoint: str, task: str, model: str = "huggingface") -> int:
    with EvalClient(address) as client:
        try:
            job_id = client.evaluate(model, [task], {"pretrained": checkpoint}, labels={"client": "python"})["job_id"]
        except InvalidRequest as error:
            for violation in error.violations:
                print(f"{violation.field}: {violation.description}", file=sys.stderr)
            return 2
        print("job", job_id)
        for event in client.watch_job(job_id):
            if event.HasField("state_change"):
                print(f"[{event.sequence}] {job_pb2.JobState.Name(event.state_change.state)}")
            elif event.HasField("progress"):
                print(f"[{event.sequence}] {event.progress.samples_done}/{event.progress.samples_total}")

        job = client.get(job_id)
        if not job.HasField("evaluation_result"):
            print(job.error.message or f"cancelled: {job.cancel_reason}", file=sys.stderr)
            return 1
        for result in job.evaluation_result.task_results:
            for metric in result.metrics:
                value = "undefined" if math.isnan(metric.value) else f"{metric.value:.4f}"
                if metric.HasField("confidence_interval"):
                    value += f" [{metric.confidence_interval.lower:.4f}, {metric.confidence_interval.upper:.4f}]"
                print(f"{result.task} {metric.name},{metric.filter} = {value}")
        return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

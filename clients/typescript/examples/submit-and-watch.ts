#!/usr/bin/env node
// Submits a checkpoint, watches it to its end and prints its metrics.
//
//     submit-and-watch ADDRESS CHECKPOINT TASK [MODEL]
//
// Exit codes: 0 completed, 1 the job failed or was cancelled, 2 wrong usage or request, 4 the server did not do it.

import { Code, ConnectError } from "@connectrpc/connect";
import {
  connect,
  type JobEvent,
  JobStage,
  JobState,
  type Metric,
  submit,
  violations,
  watchJob,
} from "../src/index.js";

const heartbeatMs = 1000 * Number(process.env.HEARTBEAT_SECONDS ?? 15);

async function main(address: string, checkpoint: string, task: string, model = "huggingface"): Promise<number> {
  const client = connect(address);
  const { jobId } = await submit(client, {
    spec: { model, modelArgs: { pretrained: checkpoint }, tasks: [task] },
    labels: { client: "typescript" },
  });
  console.log(`job ${jobId}`);
  const onReconnect = (cause: unknown): void => console.error(`trying again: ${cause}`);
  for await (const event of watchJob(client, jobId, { heartbeatMs, onReconnect })) report(event);

  const { job } = await client.getJob({ jobId });
  if (job?.result.case !== "evaluationResult") {
    const { reason = "CANCELLED", message = job?.cancelReason ?? "" } = job?.error ?? {};
    console.error(`${reason}: ${message}`);
    return 1;
  }
  for (const result of job.result.value.taskResults) {
    for (const metric of result.metrics) console.log(`${result.task} ${describe(metric)}`);
  }
  return 0;
}

function report({ sequence, event }: JobEvent): void {
  if (event.case === "stateChange") console.log(`[${sequence}] ${JobState[event.value.state] ?? event.value.state}`);
  if (event.case === "taskResult") console.log(`[${sequence}] ${event.value.task} is done`);
  if (event.case === "progress") {
    const { stage, samplesDone, samplesTotal } = event.value;
    console.log(`[${sequence}] ${(JobStage[stage] ?? "").toLowerCase()} ${samplesDone}/${samplesTotal}`);
  }
}

function describe({ name, filter, value, confidenceInterval: interval }: Metric): string {
  const shown = Number.isNaN(value) ? "undefined" : value.toFixed(4);
  if (!interval) return `${name},${filter} = ${shown}`;
  const { lower, upper, level } = interval;
  return `${name},${filter} = ${shown} [${lower.toFixed(4)}, ${upper.toFixed(4)}] (${(100 * level).toFixed(0)} %)`;
}

const [address, checkpoint, task, model] = process.argv.slice(2);
if (!address || !checkpoint || !task) {
  console.error("usage: submit-and-watch ADDRESS CHECKPOINT TASK [MODEL]");
  process.exit(2);
}
try {
  process.exitCode = await main(address, checkpoint, task, model);
} catch (error) {
  const { code, rawMessage } = ConnectError.from(error);
  const wrong = violations(error);
  for (const { field, description } of wrong) console.error(`${field}: ${description}`);
  if (wrong.length === 0) console.error(`${Code[code]}: ${rawMessage}`);
  process.exitCode = code === Code.InvalidArgument ? 2 : 4;
}

// The generated client, and what a generator cannot know: how to submit once, and how to watch without a gap.

import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { type EvaluateRequestSchema, EvaluationService } from "../gen/lmms_eval_grpc/v1/evaluation_service_pb.js";
import { type Job, type JobEvent, JobState } from "../gen/lmms_eval_grpc/v1/job_pb.js";
import { mayPass } from "./errors.js";
import { Reconnection } from "./reconnection.js";

export type EvaluationClient = Client<typeof EvaluationService>;

/**
 * A client of the server at `address`: "host:port", or for TLS "https://host:port". A dead connection is noticed by pings.
 * `options` are those of Connect's transport: interceptors, certificates (`nodeOptions`).
 */
export function connect(address: string, options: Partial<Parameters<typeof createGrpcTransport>[0]> = {}): EvaluationClient {
  const baseUrl = address.includes("://") ? address : `http://${address}`;
  const transport = createGrpcTransport({ baseUrl, pingIntervalMs: 30_000, pingTimeoutMs: 10_000, ...options });
  return createClient(EvaluationService, transport);
}

export interface Patience {
  /** Time of trying without a sign of life after which the last error is thrown. Default 5 minutes. */
  giveUpAfterMs?: number;
}

/** Queues an evaluation, once however often the call has to be repeated: every try carries the same `requestId`. */
export async function submit(
  client: EvaluationClient,
  request: MessageInitShape<typeof EvaluateRequestSchema>,
  { giveUpAfterMs = 300_000 }: Patience = {},
): Promise<Job> {
  const requestId = request.requestId || randomUUID();
  const reconnection = new Reconnection(giveUpAfterMs);
  for (;;) {
    try {
      const { job } = await client.evaluate({ ...request, requestId }, { timeoutMs: 30_000 });
      if (!job) throw new ConnectError("nothing was queued: the request was validate_only", Code.InvalidArgument);
      return job;
    } catch (error) {
      await reconnection.pauseAfter(error);
    }
  }
}

export interface WatchOptions extends Patience {
  /** Only events after this sequence. Default 0: all of them. */
  afterSequence?: bigint;
  /** The server says something at least this often, 1 s to 5 min; after three times as much silence the connection counts
   * as lost. Default 15 s. */
  heartbeatMs?: number;
  /** Told each time that the connection broke, before the next try. */
  onReconnect?: (cause: unknown) => void;
}

/**
 * Follows a job to its end: its events, each once and in order, across restarts of the server and lost connections.
 * Throws a ConnectError when there is no such job, or nothing was heard for too long.
 */
export async function* watchJob(
  client: EvaluationClient,
  jobId: string,
  { afterSequence = 0n, heartbeatMs = 15_000, giveUpAfterMs = 300_000, onReconnect }: WatchOptions = {},
): AsyncGenerator<JobEvent, void, undefined> {
  const reconnection = new Reconnection(giveUpAfterMs);
  let after = afterSequence;
  for (;;) {
    const silence = new AbortController();
    const abort = (): void => silence.abort();
    let timer = setTimeout(abort, 3 * heartbeatMs);
    let failure: unknown = new ConnectError("the server ended the watch before the job had ended", Code.Unavailable);
    let spoke = false;
    try {
      const request = { jobId, afterSequence: after, heartbeatInterval: durationFromMs(heartbeatMs) };
      for await (const { message } of client.watchJob(request, { signal: silence.signal })) {
        clearTimeout(timer); // runs only while we wait for the server, not while the caller works on an event
        spoke = true;
        reconnection.succeeded();
        if (message.case === "event" && message.value.sequence > after) {
          after = message.value.sequence;
          yield message.value;
          if (endsJob(message.value)) return;
        }
        timer = setTimeout(abort, 3 * heartbeatMs);
      }
      if (!spoke) return; // the job had ended, at or before `afterSequence`
    } catch (error) {
      failure = error;
    } finally {
      clearTimeout(timer);
      abort(); // a caller that leaves early leaves no call behind, which would hold up the end of the program
    }
    if (mayPass(failure)) onReconnect?.(failure);
    await reconnection.pauseAfter(failure);
  }
}

/** Whether a job in this state stays in it. A state that this client does not know is not an end. */
export function isTerminal(state: JobState): boolean {
  return state === JobState.COMPLETED || state === JobState.FAILED || state === JobState.CANCELLED;
}

function endsJob({ event }: JobEvent): boolean {
  return event.case === "stateChange" && isTerminal(event.value.state);
}

// What the service says about an error, beside its code and text.

import { Code, ConnectError } from "@connectrpc/connect";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";

/** One wrong field of a request. */
export interface Violation {
  /** Its path in the request, such as `spec.tasks[1]`. */
  field: string;
  /** The value, what is wrong with it, and the remedy. */
  description: string;
}

/** All wrong fields that the service named; none for other errors. */
export function violations(error: unknown): Violation[] {
  return ConnectError.from(error)
    .findDetails(BadRequestSchema)
    .flatMap((detail) => detail.fieldViolations.map(({ field, description }) => ({ field, description })));
}

/** The service's stable upper-case word for the error, such as "JOB_NOT_FOUND". Empty when the error is not its own. */
export function reason(error: unknown): string {
  const infos = ConnectError.from(error).findDetails(ErrorInfoSchema);
  return infos.find((info) => info.domain === "lmms-eval-grpc")?.reason ?? "";
}

/** Milliseconds after which the service suggests trying again. 0 when it suggests nothing. */
export function retryAfterMs(error: unknown): number {
  const [info] = ConnectError.from(error).findDetails(RetryInfoSchema);
  return info?.retryDelay ? durationMs(info.retryDelay) : 0;
}

/** Whether what broke a call may pass by itself: a server that restarts, a lost connection. */
export function mayPass(error: unknown): boolean {
  switch (ConnectError.from(error).code) {
    case Code.Unavailable:
    case Code.DeadlineExceeded:
    case Code.Aborted:
    case Code.Canceled: // as connect-node names, like the one above, a connection that was lost under a call
      return true;
    case Code.Internal: // a broken stream. The service's own internal errors carry a reason, and would come again.
      return reason(error) === "";
    default:
      return false;
  }
}

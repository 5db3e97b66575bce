// When to try again.

import { setTimeout as sleep } from "node:timers/promises";
import { mayPass, retryAfterMs } from "./errors.js";

const FIRST_DELAY_MS = 200;
const LONGEST_DELAY_MS = 10_000;
const LONGEST_ADVICE_MS = 60_000;

/**
 * Waits after each break: delays double from 0.2 s to 10 s, with jitter, and start anew after a sign of life. The
 * service's own advice is a lower bound.
 */
export class Reconnection {
  private failures = 0;
  private brokenSince: number | undefined;

  /** @param giveUpAfterMs Time without any sign of life after which the last error is thrown. */
  constructor(private readonly giveUpAfterMs: number) {}

  succeeded(): void {
    this.failures = 0;
    this.brokenSince = undefined;
  }

  /** Waits until it is time for another try. Throws `error` when trying again cannot help, or was in vain for too long. */
  async pauseAfter(error: unknown): Promise<void> {
    const now = performance.now();
    this.brokenSince ??= now;
    if (!mayPass(error) || now - this.brokenSince >= this.giveUpAfterMs) throw error;
    const longest = Math.min(FIRST_DELAY_MS * 2 ** this.failures, LONGEST_DELAY_MS);
    this.failures = Math.min(this.failures + 1, 32);
    const advice = Math.min(retryAfterMs(error), LONGEST_ADVICE_MS);
    await sleep(Math.max((longest * (1 + Math.random())) / 2, advice));
  }
}

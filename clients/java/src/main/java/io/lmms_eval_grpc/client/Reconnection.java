package io.lmms_eval_grpc.client;

import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Waits after each break: delays double from 0.2 s to 10 s, with jitter, and start anew after a sign of life. The service's
 * own advice is a lower bound.
 */
final class Reconnection {
  private static final long FIRST_DELAY_MS = 200;
  private static final long LONGEST_DELAY_MS = 10_000;
  private static final long LONGEST_ADVICE_MS = 60_000;
  private static final int DOUBLINGS = 6; // from the first delay to beyond the longest

  private final Duration giveUpAfter;
  private int failures;
  private Long brokenSince;

  /** @param giveUpAfter time without any sign of life after which the last error is thrown */
  Reconnection(Duration giveUpAfter) {
    this.giveUpAfter = giveUpAfter;
  }

  void succeeded() {
    failures = 0;
    brokenSince = null;
  }

  /** Takes note of a break. Throws {@code error} when trying again cannot help, or was in vain for too long. */
  void broke(StatusRuntimeException error) {
    if (brokenSince == null) brokenSince = System.nanoTime();
    if (!Errors.mayPass(error) || System.nanoTime() - brokenSince >= giveUpAfter.toNanos()) throw error;
  }

  /** Waits until it is time for another try after {@link #broke}. */
  void pause(StatusRuntimeException error) throws InterruptedException {
    long longest = Math.min(FIRST_DELAY_MS << failures, LONGEST_DELAY_MS);
    failures = Math.min(failures + 1, DOUBLINGS);
    long advice = Math.min(Errors.retryAfter(error).toMillis(), LONGEST_ADVICE_MS);
    Thread.sleep(Math.max(ThreadLocalRandom.current().nextLong(longest / 2, longest + 1), advice));
  }
}

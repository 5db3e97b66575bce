package io.lmms_eval_grpc.client;

import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.function.Consumer;

/**
 * How a job is watched.
 *
 * @param afterSequence only events after this sequence; 0: all of them
 * @param heartbeat the server says something at least this often, 1 s to 5 min; after three times as much silence the
 *     connection counts as lost
 * @param giveUpAfter time of trying without a sign of life after which the last error is thrown
 * @param onReconnect told each time that the connection broke, before the next try
 */
public record WatchOptions(
    long afterSequence, Duration heartbeat, Duration giveUpAfter, Consumer<StatusRuntimeException> onReconnect) {

  /** All events, a heartbeat every 15 seconds, and five minutes of patience. */
  public static WatchOptions defaults() {
    return new WatchOptions(0, Duration.ofSeconds(15), Duration.ofMinutes(5), error -> {});
  }

  public WatchOptions withHeartbeat(Duration value) {
    return new WatchOptions(afterSequence, value, giveUpAfter, onReconnect);
  }

  public WatchOptions withOnReconnect(Consumer<StatusRuntimeException> value) {
    return new WatchOptions(afterSequence, heartbeat, giveUpAfter, value);
  }
}

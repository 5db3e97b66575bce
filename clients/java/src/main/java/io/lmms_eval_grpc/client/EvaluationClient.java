package io.lmms_eval_grpc.client;

import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.lmms_eval_grpc.v1.EvaluateRequest;
import io.lmms_eval_grpc.v1.EvaluationServiceGrpc;
import io.lmms_eval_grpc.v1.EvaluationServiceGrpc.EvaluationServiceBlockingStub;
import io.lmms_eval_grpc.v1.Job;
import io.lmms_eval_grpc.v1.JobEvent;
import io.lmms_eval_grpc.v1.JobState;
import io.lmms_eval_grpc.v1.WatchJobRequest;
import io.lmms_eval_grpc.v1.WatchJobResponse;
import java.time.Duration;
import java.util.EnumSet;
import java.util.Iterator;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/**
 * Submits once, and watches without a gap: what a generator cannot know. Everything else is a call of {@link #stub}.
 */
public final class EvaluationClient implements AutoCloseable {
  /** States that a job stays in. One that this client does not know is not an end. */
  public static final Set<JobState> TERMINAL =
      EnumSet.of(JobState.JOB_STATE_COMPLETED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED);

  private final ManagedChannel channel;
  private final EvaluationServiceBlockingStub stub;
  private final ScheduledExecutorService timer =
      Executors.newSingleThreadScheduledExecutor(
          task -> {
            Thread thread = new Thread(task, "lmms-eval-grpc-watchdog");
            thread.setDaemon(true);
            return thread;
          });

  /** A client without TLS of the server at {@code address}, "host:port". */
  public EvaluationClient(String address) {
    this(ManagedChannelBuilder.forTarget(address).usePlaintext());
  }

  /** A client over a channel of the caller's making, with TLS for example. Dead connections are noticed by pings. */
  public EvaluationClient(ManagedChannelBuilder<?> builder) {
    channel =
        builder
            .maxInboundMessageSize(64 << 20) // the results of a job may be larger than 4 MiB
            .maxInboundMetadataSize(64 << 10) // errors are explained in the trailers
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            .build();
    stub = EvaluationServiceGrpc.newBlockingStub(channel);
  }

  public EvaluationServiceBlockingStub stub() {
    return stub;
  }

  /**
   * Queues an evaluation, once however often the call has to be repeated: every try carries the same request_id, which is
   * drawn when the request has none.
   */
  public Job submit(EvaluateRequest request, Duration giveUpAfter) throws InterruptedException {
    EvaluateRequest keyed =
        request.getRequestId().isEmpty()
            ? request.toBuilder().setRequestId(UUID.randomUUID().toString()).build()
            : request;
    Reconnection reconnection = new Reconnection(giveUpAfter);
    while (true) {
      try {
        return stub.withDeadlineAfter(30, TimeUnit.SECONDS).evaluate(keyed).getJob();
      } catch (StatusRuntimeException error) {
        reconnection.broke(error);
        reconnection.pause(error);
        channel.resetConnectBackoff(); // the pause was ours
      }
    }
  }

  /**
   * Follows a job to its end: hands over its events, each once and in order, across restarts of the server and lost
   * connections. Throws StatusRuntimeException when there is no such job, or nothing was heard for too long, and whatever
   * onEvent throws.
   */
  public void watchJob(String jobId, WatchOptions options, Consumer<JobEvent> onEvent) throws InterruptedException {
    Reconnection reconnection = new Reconnection(options.giveUpAfter());
    long after = options.afterSequence();
    while (true) {
      StatusRuntimeException failure;
      boolean spoke = false;
      boolean delivering = false;
      try (SilenceLimit call = new SilenceLimit(options.heartbeat().multipliedBy(3))) {
        Iterator<WatchJobResponse> responses = call.open(request(jobId, after, options.heartbeat()));
        while (call.waitFor(responses)) {
          WatchJobResponse response = responses.next();
          spoke = true;
          reconnection.succeeded();
          if (!response.hasEvent() || response.getEvent().getSequence() <= after) continue;
          after = response.getEvent().getSequence();
          delivering = true;
          onEvent.accept(response.getEvent());
          delivering = false;
          if (endsJob(response.getEvent())) return;
        }
        if (!spoke) return; // the job had ended, at or before afterSequence
        failure =
            Status.UNAVAILABLE.withDescription("the server ended the watch before the job had ended").asRuntimeException();
      } catch (StatusRuntimeException error) {
        if (delivering) throw error; // by a call of onEvent's own
        failure = error;
      }
      reconnection.broke(failure);
      options.onReconnect().accept(failure);
      reconnection.pause(failure);
      channel.resetConnectBackoff();
    }
  }

  @Override
  public void close() {
    timer.shutdownNow();
    channel.shutdownNow();
  }

  private static WatchJobRequest request(String jobId, long after, Duration heartbeat) {
    return WatchJobRequest.newBuilder()
        .setJobId(jobId)
        .setAfterSequence(after)
        .setHeartbeatInterval(
            com.google.protobuf.Duration.newBuilder().setSeconds(heartbeat.getSeconds()).setNanos(heartbeat.getNano()))
        .build();
  }

  private static boolean endsJob(JobEvent event) {
    return event.hasStateChange() && TERMINAL.contains(event.getStateChange().getState());
  }

  /** One call of WatchJob, which is cancelled when it is waited for longer than the limit, or closed. */
  private final class SilenceLimit implements AutoCloseable {
    private final Context.CancellableContext context = Context.current().withCancellation();
    private final Duration limit;

    SilenceLimit(Duration limit) {
      this.limit = limit;
    }

    Iterator<WatchJobResponse> open(WatchJobRequest request) {
      Context previous = context.attach();
      try {
        return stub.watchJob(request);
      } finally {
        context.detach(previous);
      }
    }

    boolean waitFor(Iterator<WatchJobResponse> responses) {
      ScheduledFuture<?> alarm =
          timer.schedule(() -> context.cancel(null), limit.toMillis(), TimeUnit.MILLISECONDS);
      try {
        return responses.hasNext();
      } finally {
        alarm.cancel(false);
      }
    }

    @Override
    public void close() {
      context.cancel(null);
    }
  }
}

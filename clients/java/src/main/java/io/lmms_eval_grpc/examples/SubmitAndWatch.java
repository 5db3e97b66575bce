package io.lmms_eval_grpc.examples;

import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.lmms_eval_grpc.client.Errors;
import io.lmms_eval_grpc.client.EvaluationClient;
import io.lmms_eval_grpc.client.WatchOptions;
import io.lmms_eval_grpc.v1.ConfidenceInterval;
import io.lmms_eval_grpc.v1.EvaluateRequest;
import io.lmms_eval_grpc.v1.EvaluationSpec;
import io.lmms_eval_grpc.v1.GetJobRequest;
import io.lmms_eval_grpc.v1.Job;
import io.lmms_eval_grpc.v1.JobEvent;
import io.lmms_eval_grpc.v1.Metric;
import io.lmms_eval_grpc.v1.Progress;
import io.lmms_eval_grpc.v1.TaskResult;
import java.time.Duration;
import java.util.List;
import java.util.Locale;

/**
 * Submits a checkpoint, watches it to its end and prints its metrics.
 *
 * <pre>SubmitAndWatch ADDRESS CHECKPOINT TASK [MODEL]</pre>
 *
 * Exit codes: 0 completed, 1 the job failed or was cancelled, 2 wrong usage or request, 4 the server did not do it.
 */
public final class SubmitAndWatch {
  private SubmitAndWatch() {}

  public static void main(String[] arguments) throws InterruptedException {
    if (arguments.length != 3 && arguments.length != 4) {
      System.err.println("usage: SubmitAndWatch ADDRESS CHECKPOINT TASK [MODEL]");
      System.exit(2);
    }
    try (EvaluationClient client = new EvaluationClient(arguments[0])) {
      String model = arguments.length == 4 ? arguments[3] : "huggingface";
      System.exit(run(client, arguments[1], arguments[2], model));
    } catch (StatusRuntimeException error) {
      List<Errors.Violation> violations = Errors.violations(error);
      violations.forEach(violation -> System.err.println(violation.field() + ": " + violation.description()));
      if (violations.isEmpty()) System.err.println(error.getMessage());
      System.exit(error.getStatus().getCode() == Status.Code.INVALID_ARGUMENT ? 2 : 4);
    }
  }

  private static int run(EvaluationClient client, String checkpoint, String task, String model)
      throws InterruptedException {
    Value path = Value.newBuilder().setStringValue(checkpoint).build();
    EvaluateRequest request =
        EvaluateRequest.newBuilder()
            .setSpec(
                EvaluationSpec.newBuilder()
                    .setModel(model)
                    .setModelArgs(Struct.newBuilder().putFields("pretrained", path))
                    .addTasks(task))
            .putLabels("client", "java")
            .build();
    String jobId = client.submit(request, Duration.ofMinutes(5)).getJobId();
    System.out.println("job " + jobId);

    String heartbeat = System.getenv().getOrDefault("HEARTBEAT_SECONDS", "15");
    WatchOptions options =
        WatchOptions.defaults()
            .withHeartbeat(Duration.ofSeconds(Long.parseLong(heartbeat)))
            .withOnReconnect(error -> System.err.println("trying again: " + error.getMessage()));
    client.watchJob(jobId, options, SubmitAndWatch::report);

    Job job = client.stub().getJob(GetJobRequest.newBuilder().setJobId(jobId).build()).getJob();
    if (!job.hasEvaluationResult()) {
      System.err.println(
          job.hasError()
              ? job.getError().getReason() + ": " + job.getError().getMessage()
              : "CANCELLED: " + job.getCancelReason());
      return 1;
    }
    for (TaskResult result : job.getEvaluationResult().getTaskResultsList()) {
      for (Metric metric : result.getMetricsList()) System.out.println(result.getTask() + " " + describe(metric));
    }
    return 0;
  }

  private static void report(JobEvent event) {
    String what =
        switch (event.getEventCase()) {
          case STATE_CHANGE -> event.getStateChange().getState().name().replaceFirst("^JOB_STATE_", "");
          case TASK_RESULT -> event.getTaskResult().getTask() + " is done";
          case PROGRESS -> describe(event.getProgress());
          default -> "something that this client does not know";
        };
    System.out.println("[" + event.getSequence() + "] " + what);
  }

  private static String describe(Progress progress) {
    String stage = progress.getStage().name().replaceFirst("^JOB_STAGE_", "").toLowerCase(Locale.ROOT);
    return stage + " " + progress.getSamplesDone() + "/" + progress.getSamplesTotal();
  }

  private static String describe(Metric metric) {
    String value = Double.isNaN(metric.getValue()) ? "undefined" : String.format(Locale.ROOT, "%.4f", metric.getValue());
    String shown = metric.getName() + "," + metric.getFilter() + " = " + value;
    if (!metric.hasConfidenceInterval()) return shown;
    ConfidenceInterval interval = metric.getConfidenceInterval();
    return shown
        + String.format(
            Locale.ROOT, " [%.4f, %.4f] (%.0f %%)", interval.getLower(), interval.getUpper(), 100 * interval.getLevel());
  }
}

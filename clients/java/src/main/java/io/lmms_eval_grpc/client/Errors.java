package io.lmms_eval_grpc.client;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.RetryInfo;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;

/** What the service says about an error, beside its code and text. */
public final class Errors {
  private Errors() {}

  /**
   * One wrong field of a request.
   *
   * @param field its path in the request, such as {@code spec.tasks[1]}
   * @param description the value, what is wrong with it, and the remedy
   */
  public record Violation(String field, String description) {}

  /** All wrong fields that the service named; none for other errors. */
  public static List<Violation> violations(StatusRuntimeException error) {
    return details(error, BadRequest.class).stream()
        .flatMap(detail -> detail.getFieldViolationsList().stream())
        .map(violation -> new Violation(violation.getField(), violation.getDescription()))
        .toList();
  }

  /** Time after which the service suggests trying again. Zero when it suggests nothing. */
  public static Duration retryAfter(StatusRuntimeException error) {
    return details(error, RetryInfo.class).stream()
        .map(info -> Duration.ofSeconds(info.getRetryDelay().getSeconds(), info.getRetryDelay().getNanos()))
        .findFirst()
        .orElse(Duration.ZERO);
  }

  /** Whether what broke a call may pass by itself: a server that restarts, a lost connection. */
  public static boolean mayPass(StatusRuntimeException error) {
    return switch (error.getStatus().getCode()) {
      case UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED -> true;
      // A broken stream. The service's own internal errors carry details, and would come again.
      case INTERNAL -> StatusProto.fromThrowable(error).getDetailsCount() == 0;
      default -> false;
    };
  }

  private static <T extends Message> List<T> details(StatusRuntimeException error, Class<T> kind) {
    List<T> found = new ArrayList<>();
    for (com.google.protobuf.Any any : StatusProto.fromThrowable(error).getDetailsList()) {
      try {
        if (any.is(kind)) found.add(any.unpack(kind));
      } catch (InvalidProtocolBufferException e) {
        // A detail that cannot be read says nothing; the error itself is still there.
      }
    }
    return found;
  }
}

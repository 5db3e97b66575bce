require "google/rpc/error_details_pb"
require "grpc"
require "grpc/google_rpc_status_utils"

module LmmsEvalGrpc
  # What the service says about a GRPC::BadStatus, beside its code and text.
  module Errors
    Violation = Struct.new(:field, :description)

    module_function

    # All wrong fields of the request that the service named; none for other errors.
    def violations(error)
      details(error, Google::Rpc::BadRequest)
        .flat_map { |detail| detail.field_violations.map { |v| Violation.new(v.field, v.description) } }
    end

    # The service's stable upper-case word, such as "JOB_NOT_FOUND". Empty when the error is not its own.
    def reason(error)
      details(error, Google::Rpc::ErrorInfo).find { |info| info.domain == "lmms-eval-grpc" }&.reason || ""
    end

    # Seconds after which the service suggests trying again. 0 when it suggests nothing.
    def retry_after(error)
      delay = details(error, Google::Rpc::RetryInfo).first&.retry_delay
      delay ? delay.seconds + (delay.nanos / 1e9) : 0
    end

    # Whether what broke a call may pass by itself: a server that restarts, a lost connection.
    def may_pass?(error)
      case error
      when GRPC::Unavailable, GRPC::DeadlineExceeded, GRPC::Cancelled then true
      # A broken stream. The service's own internal errors carry a reason, and would come again.
      when GRPC::Internal then reason(error).empty?
      else false
      end
    end

    def details(error, kind)
      status = error.is_a?(GRPC::BadStatus) ? error.to_rpc_status : nil
      (status&.details || []).select { |any| any.is(kind) }.map { |any| any.unpack(kind) }
    end
  end
end

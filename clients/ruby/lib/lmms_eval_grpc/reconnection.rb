require "lmms_eval_grpc/errors"

module LmmsEvalGrpc
  # Waits after each break: delays double from 0.2 s to 10 s, with jitter, and start anew after a sign of life. The
  # service's own advice is a lower bound.
  class Reconnection
    FIRST_DELAY = 0.2
    LONGEST_DELAY = 10.0
    LONGEST_ADVICE = 60.0

    # give_up_after: seconds without any sign of life after which the last error is raised.
    def initialize(give_up_after)
      @give_up_after = give_up_after
      succeeded
    end

    def succeeded
      @failures = 0
      @broken_since = nil
    end

    # Waits until it is time for another try. Raises the error when trying again cannot help, or was in vain for too long.
    def pause_after(error)
      now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
      @broken_since ||= now
      raise error if !Errors.may_pass?(error) || now - @broken_since >= @give_up_after

      yield error if block_given?
      longest = [FIRST_DELAY * (2**@failures), LONGEST_DELAY].min
      @failures = [@failures + 1, 32].min
      sleep [rand((longest / 2)..longest), [Errors.retry_after(error), LONGEST_ADVICE].min].max
    end
  end
end

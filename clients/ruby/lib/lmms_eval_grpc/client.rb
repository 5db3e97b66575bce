require "securerandom"
require "google/protobuf/well_known_types"
require "lmms_eval_grpc/reconnection"

module LmmsEvalGrpc
  # Submits once, and watches without a gap. Everything else is a call of `stub`.
  class Client
    TERMINAL = %i[JOB_STATE_COMPLETED JOB_STATE_FAILED JOB_STATE_CANCELLED].freeze

    CHANNEL = {
      "grpc.max_receive_message_length" => 64 * (2**20), # the results of a job may be larger than 4 MiB
      "grpc.max_metadata_size" => 64 * 1024, # errors are explained in the trailers
      "grpc.max_reconnect_backoff_ms" => 5_000, # a restarted server is found again soon
      "grpc.keepalive_time_ms" => 30_000, # a dead connection is noticed
      "grpc.keepalive_timeout_ms" => 10_000
    }.freeze

    attr_reader :stub

    def initialize(address, credentials: :this_channel_is_insecure, give_up_after: 300)
      @stub = V1::EvaluationService::Stub.new(address, credentials, channel_args: CHANNEL)
      @give_up_after = give_up_after
    end

    # Queues an evaluation, once however often the call has to be repeated: every try carries the same request_id.
    # `spec` has the fields of EvaluationSpec; a Hash does for model_args and gen_kwargs. Returns the Job.
    def submit(spec, request_id: SecureRandom.uuid, **fields)
      spec = spec.to_h { |name, value| [name, value.is_a?(Hash) ? Google::Protobuf::Struct.from_hash(value) : value] }
      request = V1::EvaluateRequest.new(spec: V1::EvaluationSpec.new(spec), request_id: request_id, **fields)
      reconnection = Reconnection.new(@give_up_after)
      begin
        stub.evaluate(request, deadline: Time.now + 30).job
      rescue GRPC::BadStatus => e
        reconnection.pause_after(e)
        retry
      end
    end

    # Follows a job to its end: yields its events, each once and in order, across restarts of the server and lost
    # connections. `heartbeat` are the seconds after which the server says something at the latest, 1 to 300; after three
    # times as much silence the connection counts as lost. `on_reconnect` is called with the error before each next try.
    # Raises GRPC::NotFound when there is no such job, and whatever the block raises.
    def watch(job_id, after_sequence: 0, heartbeat: 15, on_reconnect: nil, &block)
      return enum_for(:watch, job_id, after_sequence:, heartbeat:, on_reconnect:) unless block

      reconnection = Reconnection.new(@give_up_after)
      cursor = after_sequence
      loop do
        spoke = delivering = false
        each_response(job_id, cursor, heartbeat) do |response|
          spoke = true
          reconnection.succeeded
          event = response.event
          next if event.nil? || event.sequence <= cursor

          cursor = event.sequence
          delivering = true
          block.call(event)
          delivering = false
          return if event.state_change && TERMINAL.include?(event.state_change.state)
        end
        return unless spoke # the job had ended, at or before `after_sequence`

        raise GRPC::Unavailable, "the server ended the watch before the job had ended"
      rescue GRPC::BadStatus => e
        raise if delivering # by a call of the block's own

        reconnection.pause_after(e, &on_reconnect)
      end
    end

    private

    # One call of WatchJob, which is cancelled after too much silence.
    def each_response(job_id, after_sequence, heartbeat)
      request = V1::WatchJobRequest.new(
        job_id:, after_sequence:, heartbeat_interval: Google::Protobuf::Duration.new(seconds: heartbeat)
      )
      call = stub.watch_job(request, return_op: true)
      waiting_since = now # nil while the caller works on an event
      watchdog = Thread.new do
        sleep 0.2 until waiting_since && now - waiting_since > 3 * heartbeat
        call.cancel
      end
      call.execute.each do |response|
        waiting_since = nil
        yield response
        waiting_since = now
      end
    ensure
      watchdog&.kill
      call&.cancel
    end

    def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end

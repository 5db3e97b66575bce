#include "lmms_eval_grpc/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <iomanip>
#include <random>
#include <sstream>

#include "reconnection.h"
#include "watchdog.h"

namespace lmms_eval_grpc {
namespace {

// A UUID of version 4.
std::string RandomUuid() {
  std::random_device random;
  std::ostringstream text;
  text << std::hex << std::setfill('0');
  for (int group = 0; group < 8; ++group) {
    if (group >= 2 && group <= 5) text << '-';
    unsigned value = random() & 0xffff;
    if (group == 3) value = (value & 0x0fff) | 0x4000;
    if (group == 4) value = (value & 0x3fff) | 0x8000;
    text << std::setw(4) << value;
  }
  return text.str();
}

bool EndsJob(const v1::JobEvent& event) {
  const auto state = event.state_change().state();
  return event.has_state_change() && (state == v1::JOB_STATE_COMPLETED || state == v1::JOB_STATE_FAILED ||
                                      state == v1::JOB_STATE_CANCELLED);
}

}  // namespace

std::unique_ptr<v1::EvaluationService::Stub> Connect(const std::string& address,
                                                     const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);                 // the results of a job may be larger than 4 MiB
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, 64 << 10);       // errors are explained in the trailers
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5'000);   // a restarted server is found again soon
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  return v1::EvaluationService::NewStub(grpc::CreateCustomChannel(address, credentials, arguments));
}

v1::Job Submit(v1::EvaluationService::Stub& stub, v1::EvaluateRequest request,
               std::chrono::milliseconds give_up_after) {
  if (request.request_id().empty()) request.set_request_id(RandomUuid());
  Reconnection reconnection(give_up_after);
  for (;;) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    v1::EvaluateResponse response;
    const grpc::Status status = stub.Evaluate(&context, request, &response);
    if (status.ok()) return response.job();
    reconnection.Broke(status);
    reconnection.Pause(status);
  }
}

void WatchJob(v1::EvaluationService::Stub& stub, const std::string& job_id, const WatchOptions& options,
              const std::function<void(const v1::JobEvent&)>& on_event) {
  Reconnection reconnection(options.give_up_after);
  std::int64_t after = options.after_sequence;
  for (;;) {
    v1::WatchJobRequest request;
    request.set_job_id(job_id);
    request.set_after_sequence(after);
    request.mutable_heartbeat_interval()->set_seconds(options.heartbeat.count());

    grpc::ClientContext context;
    Watchdog watchdog(context, 3 * options.heartbeat);
    watchdog.Waiting(true);
    const auto reader = stub.WatchJob(&context, request);
    v1::WatchJobResponse response;
    bool spoke = false;
    while (reader->Read(&response)) {
      watchdog.Waiting(false);  // the caller may take its time with an event
      spoke = true;
      reconnection.Succeeded();
      if (response.has_event() && response.event().sequence() > after) {
        after = response.event().sequence();
        on_event(response.event());
        if (EndsJob(response.event())) {
          context.TryCancel();
          reader->Finish();
          return;
        }
      }
      watchdog.Waiting(true);
    }
    grpc::Status status = reader->Finish();
    if (status.ok()) {
      if (!spoke) return;  // the job had ended, at or before `after_sequence`
      status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server ended the watch before the job had ended");
    }
    reconnection.Broke(status);
    if (options.on_reconnect) options.on_reconnect(status);
    reconnection.Pause(status);
  }
}

}  // namespace lmms_eval_grpc

// What a generator cannot know: how to submit once, and how to watch without a gap. Everything else is a call of the
// generated stub.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "lmms_eval_grpc/errors.h"
#include "lmms_eval_grpc/v1/evaluation_service.grpc.pb.h"

namespace lmms_eval_grpc {

// A stub for the server at `address`, "host:port". A dead connection is noticed by pings.
std::unique_ptr<v1::EvaluationService::Stub> Connect(
    const std::string& address,
    const std::shared_ptr<grpc::ChannelCredentials>& credentials = grpc::InsecureChannelCredentials());

// Queues an evaluation, once however often the call has to be repeated: every try carries the same request_id, which is
// drawn when the request has none. Throws ServiceError.
v1::Job Submit(v1::EvaluationService::Stub& stub, v1::EvaluateRequest request,
               std::chrono::milliseconds give_up_after = std::chrono::minutes(5));

struct WatchOptions {
  // Only events after this sequence. 0: all of them.
  std::int64_t after_sequence = 0;
  // The server says something at least this often, 1 s to 5 min; after three times as much silence the connection counts
  // as lost.
  std::chrono::seconds heartbeat{15};
  // Time of trying without a sign of life after which ServiceError is thrown.
  std::chrono::milliseconds give_up_after = std::chrono::minutes(5);
  // Told each time that the connection broke, before the next try. May be empty.
  std::function<void(const grpc::Status&)> on_reconnect;
};

// Follows a job to its end: hands over its events, each once and in order, across restarts of the server and lost
// connections. Throws ServiceError when there is no such job, or nothing was heard for too long.
void WatchJob(v1::EvaluationService::Stub& stub, const std::string& job_id, const WatchOptions& options,
              const std::function<void(const v1::JobEvent&)>& on_event);

}  // namespace lmms_eval_grpc

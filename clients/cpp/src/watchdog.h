// Ends a call that has become silent.
#pragma once

#include <grpcpp/client_context.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace lmms_eval_grpc {

// Cancels a call when a read takes longer than `limit`. A blocking read has no time limit of its own.
class Watchdog {
 public:
  Watchdog(grpc::ClientContext& context, std::chrono::milliseconds limit);
  ~Watchdog();

  // A read begins, or has ended.
  void Waiting(bool waiting);

 private:
  void Run();

  grpc::ClientContext& context_;
  const std::chrono::milliseconds limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool waiting_ = false;
  std::chrono::steady_clock::time_point since_;
  bool stopped_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace lmms_eval_grpc

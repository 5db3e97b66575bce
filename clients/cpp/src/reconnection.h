// When to try again.
#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <optional>

namespace lmms_eval_grpc {

// Waits after each break: delays double from 0.2 s to 10 s, with jitter, and start anew after a sign of life. The
// service's own advice is a lower bound.
class Reconnection {
 public:
  // `give_up_after`: time without any sign of life after which the last error is thrown.
  explicit Reconnection(std::chrono::milliseconds give_up_after) : give_up_after_(give_up_after) {}

  void Succeeded();

  // Takes note of a break. Throws ServiceError when trying again cannot help, or was in vain for too long.
  void Broke(const grpc::Status& status);

  // Waits until it is time for another try after `Broke`.
  void Pause(const grpc::Status& status);

 private:
  const std::chrono::milliseconds give_up_after_;
  std::optional<std::chrono::steady_clock::time_point> broken_since_;
  int failures_ = 0;
};

}  // namespace lmms_eval_grpc

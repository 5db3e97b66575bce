// What the service says about an error, beside its code and text.
#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

namespace lmms_eval_grpc {

// One wrong field of a request.
struct Violation {
  std::string field;        // its path in the request, such as "spec.tasks[1]"
  std::string description;  // the value, what is wrong with it, and the remedy
};

// All wrong fields that the service named; none for other errors.
std::vector<Violation> Violations(const grpc::Status& status);

// The service's stable upper-case word, such as "JOB_NOT_FOUND". Empty when the error is not its own.
std::string Reason(const grpc::Status& status);

// Time after which the service suggests trying again. Zero when it suggests nothing.
std::chrono::milliseconds RetryAfter(const grpc::Status& status);

// Whether what broke a call may pass by itself: a server that restarts, a lost connection.
bool MayPass(const grpc::Status& status);

// A call that failed for good.
class ServiceError : public std::runtime_error {
 public:
  explicit ServiceError(grpc::Status status) : std::runtime_error(status.error_message()), status(std::move(status)) {}

  const grpc::Status status;
};

}  // namespace lmms_eval_grpc

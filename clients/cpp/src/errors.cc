#include "lmms_eval_grpc/errors.h"

#include <google/protobuf/util/time_util.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

namespace lmms_eval_grpc {
namespace {

// The status's details of one kind.
template <typename Detail>
std::vector<Detail> Details(const grpc::Status& status) {
  google::rpc::Status rich;
  std::vector<Detail> found;
  if (!rich.ParseFromString(status.error_details())) return found;
  for (const auto& any : rich.details()) {
    Detail detail;
    if (any.UnpackTo(&detail)) found.push_back(std::move(detail));
  }
  return found;
}

}  // namespace

std::vector<Violation> Violations(const grpc::Status& status) {
  std::vector<Violation> violations;
  for (const auto& detail : Details<google::rpc::BadRequest>(status)) {
    for (const auto& violation : detail.field_violations()) {
      violations.push_back({violation.field(), violation.description()});
    }
  }
  return violations;
}

std::string Reason(const grpc::Status& status) {
  for (const auto& info : Details<google::rpc::ErrorInfo>(status)) {
    if (info.domain() == "lmms-eval-grpc") return info.reason();
  }
  return "";
}

std::chrono::milliseconds RetryAfter(const grpc::Status& status) {
  for (const auto& info : Details<google::rpc::RetryInfo>(status)) {
    return std::chrono::milliseconds(google::protobuf::util::TimeUtil::DurationToMilliseconds(info.retry_delay()));
  }
  return std::chrono::milliseconds::zero();
}

bool MayPass(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::CANCELLED:
      return true;
    case grpc::StatusCode::INTERNAL:  // a broken stream. The service's own carry a reason, and would come again.
      return Reason(status).empty();
    default:
      return false;
  }
}

}  // namespace lmms_eval_grpc

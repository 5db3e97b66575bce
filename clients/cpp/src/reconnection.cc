#include "reconnection.h"

#include <algorithm>
#include <random>
#include <thread>

#include "lmms_eval_grpc/errors.h"

namespace lmms_eval_grpc {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstDelay{200};
constexpr milliseconds kLongestDelay{10'000};
constexpr milliseconds kLongestAdvice{60'000};
constexpr int kDoublings = 6;  // from the first delay to beyond the longest

}  // namespace

void Reconnection::Succeeded() {
  failures_ = 0;
  broken_since_.reset();
}

void Reconnection::Broke(const grpc::Status& status) {
  const auto now = std::chrono::steady_clock::now();
  if (!broken_since_) broken_since_ = now;
  if (!MayPass(status) || now - *broken_since_ >= give_up_after_) throw ServiceError(status);
}

void Reconnection::Pause(const grpc::Status& status) {
  static thread_local std::mt19937 random{std::random_device{}()};
  const auto longest = std::min(kFirstDelay * (1 << failures_), kLongestDelay);
  failures_ = std::min(failures_ + 1, kDoublings);
  std::uniform_int_distribution<milliseconds::rep> jitter(longest.count() / 2, longest.count());
  std::this_thread::sleep_for(std::max(milliseconds(jitter(random)), std::min(RetryAfter(status), kLongestAdvice)));
}

}  // namespace lmms_eval_grpc

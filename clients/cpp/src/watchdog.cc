#include "watchdog.h"

namespace lmms_eval_grpc {

Watchdog::Watchdog(grpc::ClientContext& context, std::chrono::milliseconds limit)
    : context_(context), limit_(limit), thread_([this] { Run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::Waiting(bool waiting) {
  {
    const std::lock_guard lock(mutex_);
    waiting_ = waiting;
    since_ = std::chrono::steady_clock::now();
  }
  changed_.notify_all();
}

void Watchdog::Run() {
  std::unique_lock lock(mutex_);
  while (!stopped_) {
    if (!waiting_) {
      changed_.wait(lock);
    } else if (std::chrono::steady_clock::now() - since_ >= limit_) {
      context_.TryCancel();
      return;
    } else {
      changed_.wait_until(lock, since_ + limit_);
    }
  }
}

}  // namespace lmms_eval_grpc

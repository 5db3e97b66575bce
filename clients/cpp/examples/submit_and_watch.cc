// Submits a checkpoint, watches it to its end and prints its metrics.
//
//     submit_and_watch ADDRESS CHECKPOINT TASK [MODEL]
//
// Exit codes: 0 completed, 1 the job failed or was cancelled, 2 wrong usage or request, 4 the server did not do it.

#include <lmms_eval_grpc/client.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iomanip>
#include <iostream>

namespace v1 = lmms_eval_grpc::v1;

namespace {

// "JOB_STATE_RUNNING" without its prefix.
std::string Name(const std::string& value, const std::string& prefix) {
  return value.rfind(prefix, 0) == 0 ? value.substr(prefix.size()) : value;
}

void Report(const v1::JobEvent& event) {
  std::cout << '[' << event.sequence() << "] ";
  if (event.has_state_change()) {
    std::cout << Name(v1::JobState_Name(event.state_change().state()), "JOB_STATE_");
  } else if (event.has_task_result()) {
    std::cout << event.task_result().task() << " is done";
  } else {
    const auto& progress = event.progress();
    std::cout << Name(v1::JobStage_Name(progress.stage()), "JOB_STAGE_") << ' ' << progress.samples_done() << '/'
              << progress.samples_total();
  }
  std::cout << std::endl;
}

void Print(const std::string& task, const v1::Metric& metric) {
  std::cout << task << ' ' << metric.name() << ',' << metric.filter() << " = " << std::fixed << std::setprecision(4);
  if (std::isnan(metric.value())) {
    std::cout << "undefined";
  } else {
    std::cout << metric.value();
  }
  if (metric.has_confidence_interval()) {
    const auto& interval = metric.confidence_interval();
    std::cout << " [" << interval.lower() << ", " << interval.upper() << "] (" << std::setprecision(0)
              << 100 * interval.level() << " %)";
  }
  std::cout << std::endl;
}

int Run(const std::string& address, const std::string& checkpoint, const std::string& task, const std::string& model) {
  const auto stub = lmms_eval_grpc::Connect(address);

  v1::EvaluateRequest request;
  request.mutable_spec()->set_model(model);
  (*request.mutable_spec()->mutable_model_args()->mutable_fields())["pretrained"].set_string_value(checkpoint);
  request.mutable_spec()->add_tasks(task);
  (*request.mutable_labels())["client"] = "cpp";
  const std::string job_id = lmms_eval_grpc::Submit(*stub, request).job_id();
  std::cout << "job " << job_id << std::endl;

  lmms_eval_grpc::WatchOptions options;
  if (const char* seconds = std::getenv("HEARTBEAT_SECONDS")) options.heartbeat = std::chrono::seconds(std::atoi(seconds));
  options.on_reconnect = [](const grpc::Status& status) {
    std::cerr << "trying again: " << status.error_message() << std::endl;
  };
  lmms_eval_grpc::WatchJob(*stub, job_id, options, Report);

  grpc::ClientContext context;
  v1::GetJobRequest get;
  get.set_job_id(job_id);
  v1::GetJobResponse response;
  const grpc::Status status = stub->GetJob(&context, get, &response);
  if (!status.ok()) throw lmms_eval_grpc::ServiceError(status);
  const v1::Job& job = response.job();
  if (!job.has_evaluation_result()) {
    if (job.has_error()) {
      std::cerr << job.error().reason() << ": " << job.error().message() << std::endl;
    } else {
      std::cerr << "CANCELLED: " << job.cancel_reason() << std::endl;
    }
    return 1;
  }
  for (const auto& result : job.evaluation_result().task_results()) {
    for (const auto& metric : result.metrics()) Print(result.task(), metric);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4 && count != 5) {
    std::cerr << "usage: submit_and_watch ADDRESS CHECKPOINT TASK [MODEL]" << std::endl;
    return 2;
  }
  try {
    return Run(arguments[1], arguments[2], arguments[3], count == 5 ? arguments[4] : "huggingface");
  } catch (const lmms_eval_grpc::ServiceError& error) {
    const auto violations = lmms_eval_grpc::Violations(error.status);
    for (const auto& violation : violations) std::cerr << violation.field << ": " << violation.description << std::endl;
    if (violations.empty()) std::cerr << error.what() << std::endl;
    return error.status.error_code() == grpc::StatusCode::INVALID_ARGUMENT ? 2 : 4;
  }
}

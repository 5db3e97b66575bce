# Client of the lmms-eval-grpc evaluation service. `LmmsEvalGrpc::V1` is generated; what a generator cannot know, how to
# submit once and how to watch without a gap, is in `LmmsEvalGrpc::Client`.

require "lmms_eval_grpc/v1/admin_service_services_pb"
require "lmms_eval_grpc/v1/evaluation_service_services_pb"
require "lmms_eval_grpc/client"

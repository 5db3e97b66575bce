export * from "./client.js";
export * from "./errors.js";
export * from "../gen/lmms_eval_grpc/v1/admin_service_pb.js";
export * from "../gen/lmms_eval_grpc/v1/catalog_pb.js";
export * from "../gen/lmms_eval_grpc/v1/evaluation_service_pb.js";
export * from "../gen/lmms_eval_grpc/v1/job_pb.js";

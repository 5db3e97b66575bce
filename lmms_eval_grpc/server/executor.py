"""What runs the jobs, as the settings name it."""

from __future__ import annotations

from lmms_eval_grpc.executors.base import Executor
from lmms_eval_grpc.executors.local import LocalExecutor, LocalExecutorSettings
from lmms_eval_grpc.executors.ray.executor import RayExecutor, RayExecutorSettings
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.permissions import path_rules


def make_executor(args: ServerArgs) -> Executor:
    """This machine's devices, or a Ray cluster's; nothing is started yet."""
    if args.executor == "ray":
        return RayExecutor(
            RayExecutorSettings(
                address=args.ray_address,
                cpu_slots=args.ray_cpu_slots,
                include_paths=args.include_path,
                torch_threads=args.torch_threads,
                use_template=args.use_template,
                heartbeat_timeout=args.heartbeat_timeout,
                stall_timeout=args.stall_timeout,
                environment=path_rules(args).environment(),
                lease=args.ray_lease,
                idle_timeout=args.ray_idle_timeout,
            )
        )
    return LocalExecutor(
        LocalExecutorSettings(
            devices=args.devices,
            include_paths=args.include_path,
            torch_threads=args.torch_threads,
            use_template=args.use_template,
            heartbeat_timeout=args.heartbeat_timeout,
            stall_timeout=args.stall_timeout,
            environment=path_rules(args).environment(),
            prepare_next=args.prepare_next,
            keep_model_warm=args.keep_model_warm or None,
        )
    )

"""What the settings allow requests to touch, as rules."""

from __future__ import annotations

from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.requested_code import CodeRules
from lmms_eval_grpc.worker.path_rules import PathRules


def path_rules(args: ServerArgs) -> PathRules:
    """Which paths requests may name; what is known of them before there is a state folder."""
    return PathRules(
        checkpoint_roots=tuple(str(root.absolute()) for root in args.checkpoint_root),
        output_roots=tuple(str(root.absolute()) for root in args.output_root),
        schemes=tuple(scheme.lower().removesuffix("://") for scheme in args.checkpoint_schemes),
    )


def code_rules(args: ServerArgs) -> CodeRules:
    """Which code requests may have run."""
    return CodeRules(
        trust_remote_code=args.trust_remote_code,
        allow_task_files=args.allow_task_files,
        allow_server_args=args.allow_server_args,
        allow_lmms_eval_models=args.allow_lmms_eval_models,
        allowed_api_hosts=args.allowed_api_hosts,
    )

"""Which role each method needs. A method that is served and has no row here is refused."""

from __future__ import annotations

from collections.abc import Mapping

from lmms_eval_grpc.server.principals import Role

_EVALUATION = "/lmms_eval_grpc.v1.EvaluationService/"
_ADMIN = "/lmms_eval_grpc.v1.AdminService/"
_HEALTH = "/grpc.health.v1.Health/"

MINIMUM_ROLES: Mapping[str, Role] = {
    **dict.fromkeys(
        (
            f"{_EVALUATION}GetJob",
            f"{_EVALUATION}ListJobs",
            f"{_EVALUATION}WatchJob",
            f"{_EVALUATION}StreamSamples",
            f"{_EVALUATION}StreamLogs",
            f"{_EVALUATION}QueueStatus",
            f"{_EVALUATION}WatchQueue",
            f"{_EVALUATION}ListTasks",
            f"{_EVALUATION}ListModels",
            f"{_EVALUATION}GetServerInfo",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ),
        Role.READ,
    ),
    **dict.fromkeys(
        (f"{_EVALUATION}Evaluate", f"{_EVALUATION}MergeCheckpoint", f"{_EVALUATION}CancelJob"), Role.SUBMIT
    ),
    **dict.fromkeys(
        (
            f"{_ADMIN}PauseQueue",
            f"{_ADMIN}ResumeQueue",
            f"{_ADMIN}Drain",
            f"{_ADMIN}SetJobPriority",
            f"{_ADMIN}CollectGarbage",
        ),
        Role.ADMIN,
    ),
    # Whoever keeps the server running asks these, without credentials.
    **dict.fromkeys((f"{_HEALTH}Check", f"{_HEALTH}List", f"{_HEALTH}Watch"), Role.NONE),
}
"""By the method's full name."""

AUDITED = frozenset(method for method, role in MINIMUM_ROLES.items() if role >= Role.SUBMIT)
"""The methods that change something: each call of one is a line of the audit log."""

"""Clients of the evaluation service: :class:`EvalClient` and its asyncio twin :class:`AsyncEvalClient`.

What lives here: submitting, following, listing and cancelling jobs, reading samples and logs, what administrators do,
retries, watches that reconnect, and typed errors. The twins share every decision (requests, dictionaries, errors, retry
policy, resume state) and differ only in how they wait. What does not: anything that evaluates. This package imports
grpc, protobuf and the generated messages, never torch or transformers, so that a trainer can afford it.
"""

from lmms_eval_grpc.client.aio import AsyncEvalClient
from lmms_eval_grpc.client.arguments import parse_arg_string
from lmms_eval_grpc.client.credentials import Credentials
from lmms_eval_grpc.client.errors import (
    EvalServiceError,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    JobNotQueued,
    PermissionDenied,
    QueueFull,
    QueuePaused,
    RequestConflict,
    SamplesNotLogged,
    SequenceOutOfRange,
    ServerUnavailable,
    TooManyJobs,
    TooManySubmissions,
    TooManyWatches,
    Unauthenticated,
    Violation,
)
from lmms_eval_grpc.client.requests import EvaluationOptions
from lmms_eval_grpc.client.samples import AsyncSampleReader, SampleReader
from lmms_eval_grpc.client.sync import EvalClient

__all__ = [
    "AsyncEvalClient",
    "AsyncSampleReader",
    "Credentials",
    "EvalClient",
    "EvalServiceError",
    "EvaluationOptions",
    "InvalidRequest",
    "JobFailed",
    "JobNotFound",
    "JobNotQueued",
    "PermissionDenied",
    "QueueFull",
    "QueuePaused",
    "RequestConflict",
    "SampleReader",
    "SamplesNotLogged",
    "SequenceOutOfRange",
    "ServerUnavailable",
    "TooManyJobs",
    "TooManySubmissions",
    "TooManyWatches",
    "Unauthenticated",
    "Violation",
    "parse_arg_string",
]

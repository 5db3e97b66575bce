"""What a server can say about itself without importing what it talks about."""

from __future__ import annotations

import importlib.metadata
import platform
import time
import uuid

import lmms_eval_grpc
from lmms_eval_grpc.server.caps import LABELS
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.convert_catalog import ServerFacts
from lmms_eval_grpc.server.exposure import list_proofs

SCORED_BY = (
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "pillow",
    "av",
    "grpcio",
    "protobuf",
)
"""Packages whose versions scores, or their delivery, may depend on."""

CAPABILITIES = (
    "evaluate",
    "validate_only",
    "cancel_running",
    "resume_after_crash",
    "watch_job",
    "watch_queue",
    "stream_samples",
    "stream_logs",
    "pause_queue",
    "drain",
    "set_job_priority",
    "collect_garbage",
    "merge",
    "track",
)


def gather_facts(args: ServerArgs) -> ServerFacts:
    """The server's facts, with a new instance id. Reads package metadata from disk."""
    return ServerFacts(
        version=lmms_eval_grpc.__version__,
        instance_id=uuid.uuid4().hex,
        start_time=time.time(),
        package_versions=package_versions(),
        python_version=platform.python_version(),
        platform=platform.platform(),
        capabilities=CAPABILITIES,
        max_queued_jobs=args.max_queued_jobs,
        max_watches=args.max_watches,
        max_watches_per_client=args.max_watches_per_client,
        max_watches_per_principal=args.max_watches_per_principal,
        max_jobs_per_principal=args.max_jobs_per_principal,
        max_submissions_per_minute=args.max_submissions_per_minute,
        max_stream_bytes_per_second=args.max_stream_bytes_per_second,
        max_request_bytes=args.max_request_bytes,
        max_labels=LABELS.entries,
        max_finished_jobs=args.max_completed_jobs,
        executor=args.executor,
        authentication=list_proofs(args),
    )


def package_versions() -> dict[str, str]:
    """Installed versions of :data:`SCORED_BY`, from their metadata; packages that are not installed are left out."""
    versions = {}
    for name in SCORED_BY:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions

"""What was asked for: the specification of an evaluation or a merge, as accepted.

Field meanings, units and defaults are documented once, in ``protos/lmms_eval_grpc/v1/job.proto``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lmms_eval_grpc.jobs.results import JobErrorCode

BOOTSTRAP_ITERS = 1000
"""Replicates where nothing else is said."""


class JobKind(StrEnum):
    """What a job does."""

    EVALUATION = "evaluation"
    MERGE = "merge"


class CheckpointKind(StrEnum):
    """Which weights of a training checkpoint are merged."""

    REGULAR = "regular"
    EMA = "ema"


@dataclass(frozen=True, slots=True)
class Seeds:
    """Seeds of the random number generators."""

    python: int = 0
    numpy: int = 1234
    torch: int = 1234
    fewshot: int = 1234


class MergeMode(StrEnum):
    """What is done when a checkpoint turns out to be sharded."""

    NEVER = "never"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Whether and when a failed attempt is followed by another."""

    max_attempts: int = 3
    retry_on: tuple[JobErrorCode, ...] = (
        JobErrorCode.WORKER_DIED,
        JobErrorCode.OUT_OF_MEMORY,
        JobErrorCode.STALLED,
    )


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """Everything that decides an evaluation."""

    model: str
    tasks: tuple[str, ...]
    model_args: Mapping[str, Any] = field(default_factory=dict)
    num_fewshot: int | None = None
    batch_size: int | None = None
    """None: automatic."""
    max_batch_size: int | None = None
    device: str = ""
    limit_count: int | None = None
    limit_fraction: float | None = None
    offset: int = 0
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    log_samples: bool = True
    predict_only: bool = False
    num_gpus: int = 1
    output_dir: str = ""
    seeds: Seeds = field(default_factory=Seeds)
    repeats: int = 1
    system_instruction: str = ""
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = False
    reasoning_tags: str = ""
    force_simple: bool = False
    trust_remote_code: bool = False
    use_cache: str = ""
    agentic_trace_mode: str = "basic"
    baseline: str = ""
    max_tokens: int = 0
    run_timeout: float | None = None
    """Seconds."""
    include_path: tuple[str, ...] = ()
    max_error_share: float = 0.05
    retry_policy: RetryPolicy | None = None
    """None: a failed attempt is the end of the job."""
    stall_timeout: float | None = None
    """Seconds. None: the server's own bound."""
    merge: MergeMode = MergeMode.NEVER
    track: tuple[str, ...] = ()
    process_with_media: bool = False
    bootstrap_iters: int = BOOTSTRAP_ITERS
    override_tasks: bool = False
    timezone: str = "UTC"
    compat: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """What a merge turns into what."""

    checkpoint_path: str
    output_path: str = ""
    checkpoint_kind: CheckpointKind = CheckpointKind.REGULAR
    config_path: str = ""
    max_shard_bytes: int = 0
    """0: the usual 5 GB."""


JobSpec = EvaluationSpec | MergeSpec

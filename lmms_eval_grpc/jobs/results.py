"""What a job reports on its way and leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class JobStage(StrEnum):
    """What a running job is doing."""

    STARTING = "starting"
    PREPARING = "preparing"
    LOADING_MODEL = "loading_model"
    GENERATING = "generating"
    SCORING = "scoring"
    WRITING = "writing"
    MERGING = "merging"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; a newer one replaces an older one."""

    stage: JobStage
    task: str = ""
    samples_done: int = 0
    samples_total: int = 0
    task_samples_done: int = 0
    task_samples_total: int = 0
    samples_resumed: int = 0
    samples_errored: int = 0
    samples_per_second: float = 0.0
    remaining_seconds: float | None = None
    batch_size: int = 0
    output_tokens: int = 0
    samples_cached: int = 0
    bytes_done: int = 0
    bytes_total: int = 0


class Verdict(StrEnum):
    """Whether a run is better than its baseline."""

    BETTER = "better"
    WORSE = "worse"
    NOT_ENOUGH_EVIDENCE = "not_enough_evidence"


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """A metric against an earlier run, over the documents that both scored; in the unit of the samples' scores."""

    baseline: str
    documents: int
    score: float
    baseline_score: float
    difference: float
    verdict: Verdict
    confidence_lower: float | None = None
    confidence_upper: float | None = None
    confidence_level: float = 0.95
    confidence_method: str = ""
    p_value: float | None = None
    adjusted_p_value: float | None = None
    method: str = ""
    minimum_detectable_effect: float | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """One aggregated metric; ``value`` is NaN when undefined."""

    name: str
    filter: str
    value: float
    standard_error: float | None = None
    confidence_lower: float | None = None
    confidence_upper: float | None = None
    confidence_level: float = 0.95
    confidence_method: str = ""
    higher_is_better: bool | None = None
    sample_count: int = 0
    baseline: BaselineComparison | None = None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The outcome of one task."""

    task: str
    version: str
    metrics: tuple[Metric, ...]
    samples_asked: int
    samples_scored: int
    samples_errored: int
    elapsed_seconds: float = 0.0
    samples_skipped: int = 0


@dataclass(frozen=True, slots=True)
class GroupResult:
    """The outcome of a group of tasks."""

    group: str
    version: str
    metrics: tuple[Metric, ...]
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What an evaluation produced. The documents are JSON texts."""

    task_results: tuple[TaskResult, ...]
    group_results: tuple[GroupResult, ...] = ()
    results_json: str = ""
    manifest_json: str = ""
    results_path: str = ""
    samples_paths: tuple[str, ...] = ()
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    samples_per_second: float = 0.0
    output_tokens_per_second: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge produced."""

    output_path: str
    size_bytes: int
    tensor_count: int = 0
    file_count: int = 0


JobResult = EvaluationResult | MergeResult


class JobErrorCode(StrEnum):
    """Kind of a job's failure."""

    INVALID = "invalid"
    EVALUATION = "evaluation"
    WORKER_DIED = "worker_died"
    TIMEOUT = "timeout"
    INTERNAL = "internal"
    OUT_OF_MEMORY = "out_of_memory"
    STALLED = "stalled"


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed."""

    code: JobErrorCode
    reason: str
    """Stable upper-case word for programs, e.g. ``WORKER_KILLED``."""
    message: str
    details: Mapping[str, str] = field(default_factory=dict)
    log_tail: str = ""
    """End of the worker's log, at most 4 KiB."""

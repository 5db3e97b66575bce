"""The engine's front door: what a caller hands in, what it is told on the way, what it gets back.

Light on purpose: importing this module imports neither torch nor transformers, so that a server can name these
types, check a configuration (:mod:`lmms_eval_grpc.engine.check`) and list tasks and models without paying for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from lmms_eval_grpc.engine.packages import LMMS_EVAL_PREFIX


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """One evaluation: a model, tasks, and how to run them. Names follow lmms-eval's command line."""

    model: str
    """Backend name or alias as the user typed it, e.g. ``qwen2_5_vl``; model-specific task settings go by it, without
    the prefix ``lmms_eval:``."""
    tasks: tuple[str, ...]
    """Task names, or paths of task YAML files."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    include_paths: tuple[Path, ...] = ()
    """Folders with task YAML files, beside those that ship with the package."""
    num_fewshot: int | None = None
    batch_size: int | None = None
    """Samples per forward pass; None: found automatically."""
    max_batch_size: int | None = None
    """Ceiling of the automatic batch size; None: the backend's own."""
    device: str = "cpu"
    """A torch device string as this process sees it (``cpu``, ``cuda``, ``cuda:0``)."""
    num_gpus: int = 1
    """Devices of that kind to use: a replica of the model for each, or one model spread over them, as the backend has
    it."""
    limit: int | float | None = None
    """None: every document; int: that many documents per task; float in (0, 1): that share of each task, rounded up."""
    offset: int = 0
    """Documents skipped at the start of each task, before ``limit`` counts."""
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Overrides the task's generation_kwargs."""
    log_samples: bool = True
    predict_only: bool = False
    output_dir: Path | None = None
    """Where the results document and the samples files go in lmms-eval's layout; None: ``run_dir/results``."""
    seed: tuple[int | None, int | None, int | None, int | None] = (0, 1234, 1234, 1234)
    """python, numpy, torch, few-shot; None leaves that generator alone."""
    repeats: int = 1
    system_instruction: str | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = False
    reasoning_tags: str | None = None
    """JSON list of [start, end] pairs, ``"none"``, or None for the default pairs."""
    force_simple: bool = False
    trust_remote_code: bool = False
    use_cache: Path | None = None
    """Folder of a cache of responses that evaluations share, made if need be; of a path that ends in ``.db`` the folder
    it is in counts. None: no cache."""
    agentic_trace_mode: str = "basic"
    baseline: str | None = None
    """An earlier run to compare with: a samples file, a folder of results, ``hf://user/repo[/file]`` or a preset."""
    max_tokens: int | None = None
    """Budget of generated tokens for the whole job; None: none. Once it is spent, samples that are not answered yet
    stay unanswered, and the scores are of the others."""
    max_error_share: float = 0.05
    """Largest share of a task's samples that may end in an error without failing the evaluation, from 0 to 1."""
    stall_timeout: float | None = None
    """Seconds without progress after which the caller takes the evaluation for hung, if it does. A replica that answers
    nothing for half of them, while others do, is ended and started again; without, for half an hour."""
    process_with_media: bool = False
    """Scorers get documents with their media also where the task does not ask for it."""
    log_samples_suffix: str = "model_outputs"
    """Names no file of this engine; aggregations find it in their ``args``, and some tasks name files by it."""
    bootstrap_iters: int = 1000
    """Replicates of a bootstrap, fewer where an aggregation is slow; 0: none."""
    timezone: str = "UTC"
    """IANA name of the zone of the dates in the names of results files."""
    resolved_cli_args: Mapping[str, Any] | None = None
    """What the results document says was asked for, secrets left out; None: this configuration."""
    override_tasks: bool = False
    """Whether a name in an include path wins over the same name in the package, and in a later path over an earlier."""
    merge: bool = False
    """Whether a checkpoint that is sharded is merged first, in the folder of the run; else it is refused."""
    compat: frozenset[str] = frozenset()
    """Behaviours of lmms-eval to keep where this engine corrects them, of :data:`COMPAT`."""

    @property
    def model_name(self) -> str:
        """What tasks know the model by: ``model`` without the prefix that asks for lmms-eval's own backend."""
        return self.model.removeprefix(LMMS_EVAL_PREFIX)


COMPAT = {"fewshot_stream": "Few-shot examples are drawn from one random stream, so they depend on limit and offset."}
"""What :attr:`EvaluationConfig.compat` may name, and what it means."""


class Stage(StrEnum):
    """What the engine is doing now, in the order in which a job passes through."""

    PREPARING = "preparing"
    """Tasks and documents are being read."""
    MERGING = "merging"
    """Shards of a training checkpoint are being merged."""
    LOADING_MODEL = "loading_model"
    GENERATING = "generating"
    SCORING = "scoring"
    WRITING = "writing"


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """Totals over the whole job; the receiver may drop any of them in favour of a newer one."""

    stage: Stage
    task: str = ""
    """The task being worked on; empty between tasks."""
    samples_done: int = 0
    """Samples answered (by generation now, or earlier by an attempt that was interrupted)."""
    samples_total: int = 0
    task_samples_done: int = 0
    task_samples_total: int = 0
    samples_resumed: int = 0
    """Of ``samples_done``, those that came from the run log of an earlier attempt."""
    samples_errored: int = 0
    samples_per_second: float = 0.0
    """Over the generation of this attempt; 0 before the first batch."""
    batch_size: int = 0
    """Samples in the newest batch."""
    output_tokens: int = 0
    """Tokens generated by this attempt."""
    samples_cached: int = 0
    """Of ``samples_done``, those that the response cache answered; the model was not asked."""
    samples_scored: int = 0
    """Samples that have a score; with a judge they come long after the answers."""
    bytes_done: int = 0
    """While merging: bytes of weights written."""
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """How this run differs from an earlier one in a metric, over the documents that both scored.

    Everything is in the unit of the samples' scores, whatever the metric's aggregation makes of them.
    """

    baseline: str
    """The earlier run, as the user named it."""
    documents: int
    score: float
    """This run's mean."""
    baseline_score: float
    """The earlier run's mean over the same documents."""
    difference: float
    """``score`` minus ``baseline_score``."""
    confidence_lower: float | None
    """95 % interval of the difference, by Student's t; None for fewer than two documents or clusters."""
    confidence_upper: float | None
    confidence_method: str
    """``t`` or ``t_clustered``; empty without an interval."""
    t_p_value: float | None
    """Of the paired t test, which the interval goes with."""
    p_value: float | None
    """Of the test that fits the scores best, ``method``; None where there is too little for any."""
    adjusted_p_value: float | None
    """``p_value`` by Holm, over the metrics of the task."""
    method: str
    """Such as ``mcnemar_mid_p``; empty without a test."""
    verdict: Literal["better", "worse", "not_enough_evidence"]
    """Whether this run is better, from the adjusted p-value at 0.05 and the metric's direction."""
    minimum_detectable_effect: float | None
    """The smallest true difference that so many documents show with a power of 80 %; None where the differences do not
    vary."""


@dataclass(frozen=True, slots=True)
class MetricScore:
    """One aggregated metric of one task."""

    name: str
    filter: str
    value: float
    """NaN when undefined."""
    standard_error: float | None = None
    confidence_lower: float | None = None
    """95 % interval; None when it is undefined, as for fewer than two samples."""
    confidence_upper: float | None = None
    confidence_method: str = ""
    """How the interval was made, e.g. ``t``; empty when there is none."""
    higher_is_better: bool | None = None
    sample_count: int = 0
    legacy_errors: Mapping[str, float] = field(default_factory=dict)
    """The standard errors that lmms-eval reports beside the value, by its names: ``stderr``, ``stderr_clt``,
    ``stderr_clustered``. Those that would be of something else than ``value`` are left out."""
    baseline: BaselineComparison | None = None
    """None without a baseline, or where that has no score in this metric."""


@dataclass(frozen=True, slots=True)
class TaskScore:
    """The outcome of one task."""

    task: str
    version: str
    metrics: tuple[MetricScore, ...]
    samples_asked: int
    samples_scored: int
    samples_errored: int
    seconds: float = 0.0
    samples_skipped: int = 0
    """Samples that were not answered because the budget of tokens was spent; ``samples_asked`` counts them."""


@dataclass(frozen=True, slots=True)
class GroupScore:
    """The outcome of a group of tasks."""

    group: str
    alias: str
    """For display."""
    version: str
    members: tuple[str, ...]
    """Tasks and groups directly below it, in their order."""
    metrics: tuple[MetricScore, ...]
    """Empty for a group that is only a heading."""
    sample_count: int
    """Samples scored in all its tasks."""


@dataclass(frozen=True, slots=True)
class EvaluationOutcome:
    """What a finished evaluation leaves behind."""

    tasks: tuple[TaskScore, ...]
    results_document: Mapping[str, Any]
    """The results document in lmms-eval's layout, ready for ``json.dumps``."""
    results_path: Path | None
    samples_paths: tuple[Path, ...]
    manifest: Mapping[str, Any]
    """What the scores depend on: versions, checkpoint identity, task hashes, seeds, device."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall seconds per :class:`Stage`."""
    input_tokens: int = 0
    output_tokens: int = 0
    """Of every answer used, those of earlier attempts included."""
    samples_per_second: float = 0.0
    """Of this attempt's generation, as is the next."""
    output_tokens_per_second: float = 0.0
    groups: tuple[GroupScore, ...] = ()
    """The groups among what was asked for, outer ones first."""


class Reporter(Protocol):
    """Where the engine tells what it does. Called on the engine's own thread; must return quickly."""

    def progress(self, report: ProgressReport) -> None: ...

    def task_finished(self, score: TaskScore) -> None:
        """Called once per task, when its last sample is scored."""

    def cancelled(self) -> bool:
        """Asked between batches; True makes the evaluation raise :class:`EvaluationCancelled`."""


class EvaluationCancelled(Exception):
    """The reporter asked for a stop; everything answered so far is in the run log."""


class EvaluationError(Exception):
    """An evaluation cannot go on, for a reason that the user can understand and mend.

    ``reason`` is a stable upper-case word such as ``TASK_LOAD_FAILED``, ``DATASET_UNAVAILABLE``, ``MODEL_LOAD_FAILED``,
    ``OUT_OF_MEMORY``, ``TOO_MANY_ERRORS``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an :class:`EvaluationConfig`: the field, and a sentence with the value and the remedy."""

    field: str
    """The field's path, e.g. ``tasks[1]`` or ``model_args.pretrained``."""
    description: str

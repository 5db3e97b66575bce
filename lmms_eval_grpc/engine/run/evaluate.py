"""One evaluation from configuration to scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationOutcome, Reporter, Stage
from lmms_eval_grpc.engine.checkpoints.automatic import merge_if_sharded, remove_merged
from lmms_eval_grpc.engine.judge.cache import use_cache
from lmms_eval_grpc.engine.judge.usage import USAGE
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.protocol import Backend
from lmms_eval_grpc.engine.models.replicas.backend import describe_devices, load_replicas
from lmms_eval_grpc.engine.record.baseline import load_baseline
from lmms_eval_grpc.engine.record.manifest import build_manifest
from lmms_eval_grpc.engine.record.results import write_results
from lmms_eval_grpc.engine.record.usage import CachedUsage, judges
from lmms_eval_grpc.engine.run.answers import require_capabilities
from lmms_eval_grpc.engine.run.cached_backend import CachedBackend
from lmms_eval_grpc.engine.run.log import RunLog
from lmms_eval_grpc.engine.run.policy import TokenBudget
from lmms_eval_grpc.engine.run.progress import Progress, StageClock
from lmms_eval_grpc.engine.run.response_cache import ResponseCache, cache_folder
from lmms_eval_grpc.engine.run.sample_file import SampleFile
from lmms_eval_grpc.engine.run.task_run import RunContext, run_task
from lmms_eval_grpc.engine.scoring.groups import aggregate_groups
from lmms_eval_grpc.engine.seeds import set_seeds
from lmms_eval_grpc.engine.tasks.group import Group
from lmms_eval_grpc.engine.tasks.load import LoadedTasks, load
from lmms_eval_grpc.engine.tasks.task import Task

RUN_LOG = "run_log.jsonl"
SAMPLES = "samples.jsonl"
JUDGE_CACHE = "judge_cache.sqlite3"


def load_backend(config: EvaluationConfig) -> Backend:
    """The model that the configuration names, loaded, on as many devices as it says, here or in processes of its own.

    Raises :class:`EvaluationError` as the registry does, and for replicas ``REPLICAS_DIED``.
    """
    entry = registry.resolve(config.model)
    replicas = 1 if entry is None else entry.replicas(config.model_args, config.num_gpus)
    if replicas > 1 or (entry is not None and entry.own_process):
        return load_replicas(config, replicas)
    return registry.create(
        config.model,
        config.model_args,
        device=config.device,
        batch_size=config.batch_size,
        max_batch_size=config.max_batch_size,
        trust_remote_code=config.trust_remote_code,
        force_simple=config.force_simple,
    )


def evaluate(
    config: EvaluationConfig,
    run_dir: Path,
    reporter: Reporter,
    *,
    tasks: Sequence[Task] | None = None,
    groups: Sequence[Group] = (),
    backend: Backend | None = None,
) -> EvaluationOutcome:
    """Runs the evaluation, or takes it up again where an earlier call with the same ``run_dir`` was interrupted.

    ``run_dir`` (made if need be) holds the run log and the scored samples, and, until the evaluation is done, a
    checkpoint that it had to merge; one evaluation's alone. ``tasks``, with their ``groups``, and ``backend`` may be
    handed in ready-made; a backend that was handed in is left open.

    Raises :class:`EvaluationCancelled` when the reporter asks for it, :class:`EvaluationError` when it cannot go on.
    Every answer that was given by then is in the run log, and is not asked for again.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    # An attempt that takes up another scores its answers again; judges are not to be paid twice for that.
    use_cache(run_dir / JUDGE_CACHE)
    try:
        outcome = _evaluate(config, run_dir, reporter, tasks, groups, backend)
        if config.merge:
            remove_merged(run_dir)
        return outcome
    finally:
        use_cache(None)  # the folder may be gone next, and the process live on


def _evaluate(
    config: EvaluationConfig,
    run_dir: Path,
    reporter: Reporter,
    tasks: Sequence[Task] | None,
    groups: Sequence[Group],
    backend: Backend | None,
) -> EvaluationOutcome:
    started = datetime.now(UTC)
    USAGE.reset()
    clock = StageClock()
    progress = Progress(reporter, clock)

    with clock.stage(Stage.PREPARING):
        progress.report(Stage.PREPARING)
        # Tasks come first: they fail more often than models, and in a fraction of the time.
        loaded = load(config) if tasks is None else LoadedTasks(tuple(tasks), tuple(groups))
        tasks = loaded.tasks
        doc_ids = {task.name: task.doc_ids(config.limit, config.offset) for task in tasks}
        progress.counters.samples_total = sum(map(len, doc_ids.values()))
        baseline = load_baseline(config.baseline, tasks, doc_ids) if config.baseline else None
        progress.stop_if_cancelled()

    with clock.stage(Stage.MERGING):
        # Documents and manifest name the checkpoint as it was given; only what loads it needs to know the merged one.
        loadable = merge_if_sharded(config, run_dir, reporter)

    with clock.stage(Stage.LOADING_MODEL):
        progress.report(Stage.LOADING_MODEL)
        set_seeds(config)
        own_backend = backend is None
        backend = load_backend(loadable) if backend is None else backend
        identity = backend.identity
    try:
        progress.stop_if_cancelled()
        require_capabilities(tasks, backend)
        manifest = build_manifest(
            config,
            tasks,
            identity,
            device=describe_devices(backend, config.device, config.num_gpus),
            processor_backend=str(identity.get("image_backend", "")),
            doc_ids=doc_ids,
            baseline=baseline.describe() if baseline else None,
        )
        if loadable is not config:
            manifest["model"]["merged_from"] = str(config.model_args["pretrained"])
        decoder = manifest["decode_backend"]
        with ExitStack() as files:
            log = files.enter_context(RunLog(run_dir / RUN_LOG, _header(config, tasks, identity, decoder)))
            samples = None
            if config.log_samples or config.predict_only:
                samples = files.enter_context(SampleFile(run_dir / SAMPLES, keep=log.taken_up))
            asked = backend
            if config.use_cache is not None:
                cache = files.enter_context(closing(ResponseCache(cache_folder(config.use_cache))))
                asked = CachedBackend(backend, cache, {"device": _device_type(config), "decode_backend": decoder})
            budget = TokenBudget(config.max_tokens, log.generated_tokens)
            context = RunContext(config, asked, log, samples, progress, clock, reporter, budget, baseline)
            scores = [run_task(context, task, doc_ids[task.name]) for task in tasks]
            group_scores = aggregate_groups(loaded.groups, scores)
    finally:
        if own_backend:
            backend.close()

    manifest["judges"] = judges()
    cached = _cached_usage(config, progress)
    if cached is not None:
        manifest["response_cache"] = {"folder": str(config.use_cache), **asdict(cached)}
    with clock.stage(Stage.WRITING):
        progress.counters.begin_task("", 0)
        progress.report(Stage.WRITING)
        written = write_results(
            config,
            tasks,
            scores,
            samples.read() if samples is not None else (),
            manifest,
            config.output_dir or run_dir / "results",
            started=started,
            finished=datetime.now(UTC),
            batch_sizes=sorted(progress.counters.batch_sizes, reverse=True),
            throughput=progress.throughput(),
            groups=group_scores,
            cached=cached,
            usages=progress.counters.usage,
        )
    return EvaluationOutcome(
        tasks=tuple(scores),
        results_document=written.document,
        results_path=written.results_path,
        samples_paths=written.samples_paths,
        manifest=manifest,
        stage_seconds={
            stage.value: seconds
            for stage, seconds in clock.seconds.items()
            if stage is not Stage.MERGING or loadable is not config
        },
        input_tokens=progress.counters.input_tokens,
        output_tokens=progress.counters.output_tokens,
        samples_per_second=progress.samples_per_second,
        output_tokens_per_second=progress.output_tokens_per_second,
        groups=group_scores,
    )


def _header(
    config: EvaluationConfig, tasks: Sequence[Task], identity: Mapping[str, Any], decoder: str
) -> dict[str, Any]:
    """Everything that answers depend on. Neither batch size nor limit: they change no answer."""
    return {
        "model": dict(identity),
        "tasks": {task.name: task.identity for task in tasks},
        "gen_kwargs": dict(config.gen_kwargs),
        "torch_seed": config.seed[2],
        "device_type": _device_type(config),
        "decode_backend": decoder,
        "force_simple": config.force_simple,
        "apply_chat_template": config.apply_chat_template,
    }


def _device_type(config: EvaluationConfig) -> str:
    return config.device.partition(":")[0]


def _cached_usage(config: EvaluationConfig, progress: Progress) -> CachedUsage | None:
    """What the response cache gave to this evaluation, in all its attempts; None where it has none."""
    if config.use_cache is None:
        return None
    counters = progress.counters
    return CachedUsage(
        counters.samples_cached,
        counters.cached_responses,
        counters.cached_input_tokens,
        counters.cached_output_tokens,
    )

"""One evaluation from configuration to scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError, EvaluationOutcome, Reporter, Stage
from lmms_eval_grpc.engine.checkpoints.automatic import merge_if_sharded, remove_merged
from lmms_eval_grpc.engine.data.media import environment as media_environment
from lmms_eval_grpc.engine.judge.cache import use_cache
from lmms_eval_grpc.engine.judge.usage import USAGE
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.checkpoint_url import local_checkpoint
from lmms_eval_grpc.engine.models.entry import Loader, LoadSettings
from lmms_eval_grpc.engine.models.protocol import Backend
from lmms_eval_grpc.engine.models.replicas.backend import describe_devices, load_replicas
from lmms_eval_grpc.engine.record.manifest import build_manifest
from lmms_eval_grpc.engine.record.publication import writing_to
from lmms_eval_grpc.engine.record.results import secrets_of, write_results
from lmms_eval_grpc.engine.record.usage import CachedUsage, judges
from lmms_eval_grpc.engine.run.answers import require_capabilities, require_generation_arguments
from lmms_eval_grpc.engine.run.cached_backend import CachedBackend
from lmms_eval_grpc.engine.run.log import RunLog
from lmms_eval_grpc.engine.run.policy import TokenBudget
from lmms_eval_grpc.engine.run.preparation import Preparation, prepare
from lmms_eval_grpc.engine.run.progress import Progress, StageClock
from lmms_eval_grpc.engine.run.response_cache import ResponseCache, cache_folder
from lmms_eval_grpc.engine.run.sample_file import SampleFile
from lmms_eval_grpc.engine.run.task_run import RunContext, run_task
from lmms_eval_grpc.engine.scoring.groups import aggregate_groups
from lmms_eval_grpc.engine.seeds import set_seeds
from lmms_eval_grpc.engine.tasks.group import Group
from lmms_eval_grpc.engine.tasks.load import LoadedTasks
from lmms_eval_grpc.engine.tasks.task import Task

RUN_LOG = "run_log.jsonl"
SAMPLES = "samples.jsonl"
JUDGE_CACHE = "judge_cache.sqlite3"


def load_backend(config: EvaluationConfig, loader: Loader | None = None) -> Backend:
    """The model that the configuration names, loaded, on as many devices as it says, here or in processes of its own.
    ``loader`` is what :func:`prepare_backend` has given.

    Raises :class:`EvaluationError` as the registry does, and for replicas ``REPLICAS_DIED``.
    """
    replicas = _replicas(config)
    if replicas:
        return load_replicas(config, replicas)
    return registry.load(config.model, config.model_args, LoadSettings.of(config), loader)


def prepare_backend(config: EvaluationConfig) -> Loader | None:
    """Does what of :func:`load_backend` is possible while another model has the device; None: nothing is. Raises
    whatever it likes."""
    if _replicas(config):
        return None
    set_seeds(config)  # as before the model is loaded
    return registry.prepare(config.model, config.model_args, LoadSettings.of(config))


def _replicas(config: EvaluationConfig) -> int:
    """How many processes of its own the model runs in; 0: it runs in this one."""
    entry = registry.resolve(config.model)
    replicas = 1 if entry is None else entry.replicas(config.model_args, config.num_gpus)
    return replicas if replicas > 1 or (entry is not None and entry.own_process) else 0


def evaluate(
    config: EvaluationConfig,
    run_dir: Path,
    reporter: Reporter,
    *,
    tasks: Sequence[Task] | None = None,
    groups: Sequence[Group] = (),
    backend: Backend | None = None,
    prepared: Preparation | None = None,
    open_model: Callable[[EvaluationConfig], AbstractContextManager[Backend]] | None = None,
) -> EvaluationOutcome:
    """Runs the evaluation, or takes it up again where an earlier call with the same ``run_dir`` was interrupted.

    ``run_dir`` (made if need be) holds the run log and the scored samples, and, until the evaluation is done, a
    checkpoint that it had to merge; one evaluation's alone. ``tasks``, with their ``groups``, and ``backend`` may be
    handed in ready-made; a backend that was handed in is left open. ``open_model`` stands in for :func:`load_backend`
    and for closing what that has loaded. ``prepared`` is what :func:`~lmms_eval_grpc.engine.run.preparation.prepare`
    made of the same configuration.

    Raises :class:`EvaluationCancelled` when the reporter asks for it, :class:`EvaluationError` when it cannot go on.
    Every answer that was given by then is in the run log, and is not asked for again.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    # An attempt that takes up another scores its answers again; judges are not to be paid twice for that.
    use_cache(run_dir / JUDGE_CACHE)
    try:
        loaded = None if tasks is None else LoadedTasks(tuple(tasks), tuple(groups))
        if backend is not None:
            open_model = lambda _: nullcontext(backend)  # noqa: E731
        outcome = _evaluate(
            config,
            run_dir,
            reporter,
            loaded,
            prepared,
            open_model or _open_backend,
            check_arguments=backend is None,
        )
        if config.merge:
            remove_merged(run_dir)
        return outcome
    finally:
        use_cache(None)  # the folder may be gone next, and the process live on


def _evaluate(
    config: EvaluationConfig,
    run_dir: Path,
    reporter: Reporter,
    loaded: LoadedTasks | None,
    prepared: Preparation | None,
    open_model: Callable[[EvaluationConfig], AbstractContextManager[Backend]],
    *,
    check_arguments: bool,
) -> EvaluationOutcome:
    started = datetime.now(UTC)
    USAGE.reset()
    clock = StageClock()
    progress = Progress(reporter, clock)

    with clock.stage(Stage.PREPARING):
        progress.report(Stage.PREPARING)
        _check_environment()
        # Tasks come first: they fail more often than models, and in a fraction of the time.
        ready = prepare(config, loaded) if prepared is None else prepared
        tasks, doc_ids, baseline = ready.loaded.tasks, ready.doc_ids, ready.baseline
        progress.counters.samples_total = ready.samples_total
        if check_arguments and (entry := registry.resolve(config.model)) is not None:
            require_generation_arguments(tasks, entry)
        progress.stop_if_cancelled()

    with clock.stage(Stage.MERGING):
        # Documents and manifest name the checkpoint as it was given; only what loads it needs to know the merged one.
        loadable = merge_if_sharded(config, run_dir, reporter)

    models = ExitStack()
    try:
        with clock.stage(Stage.LOADING_MODEL):
            progress.report(Stage.LOADING_MODEL)
            set_seeds(config)
            checkpoint = models.enter_context(local_checkpoint(loadable, progress.stop_if_cancelled))
            backend = models.enter_context(open_model(checkpoint.config))
            identity = checkpoint.rename(backend.identity)
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
                samples = files.enter_context(
                    SampleFile(run_dir / SAMPLES, keep=log.taken_up, secrets=secrets_of(config))
                )
            asked = backend
            if config.use_cache is not None:
                cache = files.enter_context(closing(ResponseCache(cache_folder(config.use_cache))))
                circumstances = {"device": _device_type(config), "decode_backend": decoder}
                asked = CachedBackend(backend, cache, circumstances, identity=identity)
            budget = TokenBudget(config.max_tokens, log.generated_tokens)
            context = RunContext(config, asked, log, samples, progress, clock, reporter, budget, baseline)
            scores = [run_task(context, task, doc_ids[task.name]) for task in tasks]
            group_scores = aggregate_groups(ready.loaded.groups, scores)
    finally:
        models.close()

    manifest["judges"] = judges()
    cached = _cached_usage(config, progress)
    if cached is not None:
        manifest["response_cache"] = {"folder": str(config.use_cache), **asdict(cached)}
    with clock.stage(Stage.WRITING), writing_to(config.output_dir):
        progress.counters.begin_task("", 0)
        progress.report(Stage.WRITING)
        written = write_results(
            config,
            tasks,
            scores,
            samples.by_task() if samples is not None else {},
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


def _check_environment() -> None:
    """Raises INVALID_ENVIRONMENT for variables whose values every sample with a video would fail over."""
    found = media_environment.problems()
    if found:
        raise EvaluationError("INVALID_ENVIRONMENT", "\n".join(found))


def _open_backend(config: EvaluationConfig) -> AbstractContextManager[Backend]:
    return closing(load_backend(config))


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

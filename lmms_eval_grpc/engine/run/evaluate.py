"""One evaluation from configuration to scores."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import (
    EvaluationConfig,
    EvaluationError,
    EvaluationOutcome,
    Reporter,
    Stage,
    TaskScore,
)
from lmms_eval_grpc.engine.judge.cache import use_cache
from lmms_eval_grpc.engine.judge.usage import USAGE
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.protocol import Backend, GenerationResponse
from lmms_eval_grpc.engine.models.replicas.backend import describe_devices, load_replicas
from lmms_eval_grpc.engine.record.baseline import Baseline, compare_with_baseline, load_baseline
from lmms_eval_grpc.engine.record.manifest import build_manifest
from lmms_eval_grpc.engine.record.results import write_results
from lmms_eval_grpc.engine.record.samples import SampleRecord
from lmms_eval_grpc.engine.record.usage import judges
from lmms_eval_grpc.engine.run.answers import ask, expected_parts, require_capabilities, scored_value, shown_text
from lmms_eval_grpc.engine.run.log import AnswerKey, RunLog
from lmms_eval_grpc.engine.run.policy import check_errors
from lmms_eval_grpc.engine.run.progress import Progress, StageClock
from lmms_eval_grpc.engine.run.sample_file import SampleFile
from lmms_eval_grpc.engine.run.seeds import set_seeds
from lmms_eval_grpc.engine.scoring.aggregate import ScoredSample, aggregate_task
from lmms_eval_grpc.engine.scoring.groups import aggregate_groups
from lmms_eval_grpc.engine.scoring.process import ScoringError, score_sample
from lmms_eval_grpc.engine.tasks.group import Group
from lmms_eval_grpc.engine.tasks.load import LoadedTasks, load
from lmms_eval_grpc.engine.tasks.task import DocumentError, Task

RUN_LOG = "run_log.jsonl"
SAMPLES = "samples.jsonl"
JUDGE_CACHE = "judge_cache.sqlite3"


def load_backend(config: EvaluationConfig) -> Backend:
    """The model that the configuration names, loaded, on as many devices as it says.

    Raises :class:`EvaluationError` as the registry does, and for replicas ``REPLICAS_DIED``.
    """
    entry = registry.resolve(config.model)
    replicas = 1 if entry is None else entry.replicas(config.model_args, config.num_gpus)
    if replicas > 1:
        return load_replicas(config, replicas)
    return registry.create(
        config.model,
        config.model_args,
        device=config.device,
        batch_size=config.batch_size,
        max_batch_size=config.max_batch_size,
        trust_remote_code=config.trust_remote_code,
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

    ``run_dir`` (made if need be) holds the run log and the scored samples; one evaluation's alone. ``tasks``, with
    their ``groups``, and ``backend`` may be handed in ready-made; a backend that was handed in is left open.

    Raises :class:`EvaluationCancelled` when the reporter asks for it, :class:`EvaluationError` when it cannot go on.
    Every answer that was given by then is in the run log, and is not asked for again.
    """
    started = datetime.now(UTC)
    run_dir.mkdir(parents=True, exist_ok=True)
    # An attempt that takes up another scores its answers again; judges are not to be paid twice for that.
    use_cache(run_dir / JUDGE_CACHE)
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

    with clock.stage(Stage.LOADING_MODEL):
        progress.report(Stage.LOADING_MODEL)
        set_seeds(config)
        own_backend = backend is None
        backend = load_backend(config) if backend is None else backend
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
        with ExitStack() as files:
            log = files.enter_context(RunLog(run_dir / RUN_LOG, _header(config, tasks, identity)))
            samples = None
            if config.log_samples or config.predict_only:
                samples = files.enter_context(SampleFile(run_dir / SAMPLES, keep=log.taken_up))
            run = _Run(config, backend, log, samples, progress, clock, reporter, baseline)
            scores = [run.evaluate_task(task, doc_ids[task.name]) for task in tasks]
            group_scores = aggregate_groups(loaded.groups, scores)
    finally:
        if own_backend:
            backend.close()

    manifest["judges"] = judges()
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
        )
    return EvaluationOutcome(
        tasks=tuple(scores),
        results_document=written.document,
        results_path=written.results_path,
        samples_paths=written.samples_paths,
        manifest=manifest,
        stage_seconds={stage.value: seconds for stage, seconds in clock.seconds.items()},
        input_tokens=progress.counters.input_tokens,
        output_tokens=progress.counters.output_tokens,
        samples_per_second=progress.samples_per_second,
        output_tokens_per_second=progress.output_tokens_per_second,
        groups=group_scores,
    )


def _header(config: EvaluationConfig, tasks: Sequence[Task], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that answers depend on. Neither batch size nor limit: they change no answer."""
    return {
        "model": dict(identity),
        "tasks": {task.name: task.identity for task in tasks},
        "gen_kwargs": dict(config.gen_kwargs),
        "torch_seed": config.seed[2],
        "device_type": config.device.partition(":")[0],
        "force_simple": config.force_simple,
        "apply_chat_template": config.apply_chat_template,
    }


@dataclass(slots=True)
class _TaskState:
    """One task while it is being worked on."""

    task: Task
    asked: int
    expected: dict[int, int] = field(default_factory=dict)
    """Requests by document."""
    pending: dict[int, dict[int, GenerationResponse]] = field(default_factory=dict)
    """Responses by request of documents that still lack some."""
    scored: list[ScoredSample] = field(default_factory=list)
    failed: list[SampleRecord] = field(default_factory=list)
    """Written at the task's end: until then another attempt may still answer them."""


class _Run:
    """The state of one attempt, shared by its tasks."""

    def __init__(
        self,
        config: EvaluationConfig,
        backend: Backend,
        log: RunLog,
        samples: SampleFile | None,
        progress: Progress,
        clock: StageClock,
        reporter: Reporter,
        baseline: Baseline | None,
    ) -> None:
        self.config = config
        self.backend = backend
        self.log = log
        self.samples = samples
        self.progress = progress
        self.clock = clock
        self.reporter = reporter
        self.baseline = baseline
        self.lock = threading.Lock()

    def evaluate_task(self, task: Task, doc_ids: Sequence[int]) -> TaskScore:
        """Answers, scores and aggregates one task. No batch ever holds another task's documents."""
        began = time.monotonic()
        counters = self.progress.counters
        counters.begin_task(task.name, len(doc_ids))
        state = _TaskState(task, len(doc_ids))
        open_keys = self._take_up(state, doc_ids)
        self.progress.report(Stage.GENERATING)
        if open_keys:
            self._generate(state, open_keys)
        with self.clock.stage(Stage.SCORING):
            self.progress.report(Stage.SCORING)
            state.scored.sort(key=lambda sample: sample.doc_id)
            score = aggregate_task(task, state.scored, state.asked, len(state.failed), seconds=time.monotonic() - began)
            if self.baseline is not None:
                score = compare_with_baseline(self.baseline, task, score, state.scored)
        # From here on the task's failures are final: recorded before they are shown, or a kill in between would let the
        # next attempt answer samples whose errors readers have already seen.
        self.log.record_finished(task.identity, task.name)
        if self.samples is not None:
            self.samples.append(state.failed)
        self.reporter.task_finished(score)
        return score

    def _take_up(self, state: _TaskState, doc_ids: Sequence[int]) -> list[AnswerKey]:
        """Uses what earlier attempts answered; returns what is still to be asked."""
        identity = state.task.identity
        failures_are_final = self.log.is_finished(identity)
        open_keys: list[AnswerKey] = []
        with self.clock.stage(Stage.SCORING):
            for doc_id in doc_ids:
                answered: dict[int, GenerationResponse] = {}
                parts = expected_parts(state.task, doc_id)
                state.expected[doc_id] = len(parts)
                for repeat in parts:
                    key = AnswerKey(identity, doc_id, repeat)
                    response = self.log.answers.get(key)
                    if response is not None and (response.error is None or failures_are_final):
                        answered[repeat] = response
                    else:
                        open_keys.append(key)
                if len(answered) == len(parts):
                    self.progress.counters.samples_resumed += 1
                    self._settle(state, doc_id, answered, prompt=None)
                elif answered:
                    state.pending[doc_id] = answered
        return open_keys

    def _generate(self, state: _TaskState, keys: Sequence[AnswerKey]) -> None:
        """Asks the model; every batch is on disk before it is scored."""
        prompts: dict[int, str] = {}
        with (
            self.clock.stage(Stage.GENERATING),
            closing(ask(self.backend, state.task, keys, self.lock, prompts)) as batches,
        ):
            self.progress.stop_if_cancelled()
            for answers in batches:
                pairs = [(keys[answer.index], answer.response) for answer in answers]
                if pairs:
                    self.log.record_answers(pairs, state.task.name)
                    self.progress.counters.note_batch(
                        len(answers), sum(answer.response.output_tokens for answer in answers)
                    )
                with self.clock.stage(Stage.SCORING):
                    self._accept(state, pairs, prompts)
                self.progress.report(Stage.GENERATING)
                self._check_budget()
                self.progress.stop_if_cancelled()

    def _accept(
        self,
        state: _TaskState,
        pairs: Iterable[tuple[AnswerKey, GenerationResponse]],
        prompts: dict[int, str],
    ) -> None:
        for key, response in pairs:
            answered = state.pending.setdefault(key.doc_id, {})
            answered[key.repeat] = response
            if len(answered) == state.expected[key.doc_id]:
                del state.pending[key.doc_id]
                self._settle(state, key.doc_id, answered, prompts.pop(key.doc_id, None))

    def _settle(
        self, state: _TaskState, doc_id: int, answered: Mapping[int, GenerationResponse], prompt: str | None
    ) -> None:
        """Scores one sample whose responses are all there, and counts it."""
        counters = self.progress.counters
        responses = [answered[repeat] for repeat in sorted(answered)]
        counters.samples_done += 1
        counters.task_done += 1
        counters.input_tokens += sum(response.input_tokens for response in responses)
        counters.output_tokens += sum(response.output_tokens for response in responses)
        failure = next((response.error for response in responses if response.error is not None), None)
        if failure is not None:
            self._fail(state, doc_id, "model_error", failure, responses, prompt)
            return
        try:
            with self.lock:
                scores = score_sample(state.task, doc_id, [scored_value(response) for response in responses])
        except ScoringError as error:
            self._fail(state, doc_id, error.outcome, error.message, responses, prompt)
            return
        state.scored.append(ScoredSample(doc_id, scores))
        if self.samples is None:
            return
        unwritten = [score for score in scores if not self.samples.has(state.task.name, doc_id, score.filter)]
        if unwritten:
            common = self._describe(state.task, doc_id, responses, prompt)
            self.samples.append(
                SampleRecord(
                    filter=score.filter,
                    outcome="ok",
                    filtered_responses=score.filtered_responses,
                    scores=score.scores,
                    **common,
                )
                for score in unwritten
            )

    def _fail(
        self,
        state: _TaskState,
        doc_id: int,
        outcome: Any,
        reason: str,
        responses: Sequence[GenerationResponse],
        prompt: str | None,
    ) -> None:
        self.progress.counters.samples_errored += 1
        common = self._describe(state.task, doc_id, responses, prompt)
        state.failed.append(SampleRecord(filter="", outcome=outcome, error=reason, **common))
        check_errors(state.task.name, errored=len(state.failed), asked=state.asked, newest=reason)

    def _describe(
        self, task: Task, doc_id: int, responses: Sequence[GenerationResponse], prompt: str | None
    ) -> dict[str, Any]:
        """The fields of a sample's records that do not depend on its scores; empty where its document is broken."""
        with self.lock:
            return {
                "task": task.name,
                "doc_id": doc_id,
                "prompt": prompt if prompt is not None else _or_empty(task.input_text, doc_id),
                "target": str(_or_empty(task.target, doc_id)),
                "responses": tuple(shown_text(response) for response in responses if response.error is None),
                "input_tokens": sum(response.input_tokens for response in responses),
                "output_tokens": sum(response.output_tokens for response in responses),
                "doc_hash": _or_empty(task.doc_hash, doc_id),
                "repeats": task.repeats,
            }

    def _check_budget(self) -> None:
        spent, budget = self.progress.counters.output_tokens, self.config.max_tokens
        if budget is not None and spent >= budget and self.progress.counters.samples_done < self._samples_total:
            raise EvaluationError(
                "TOKEN_BUDGET_EXCEEDED", f"the budget of {budget} generated tokens is spent ({spent}); raise max_tokens"
            )

    @property
    def _samples_total(self) -> int:
        return self.progress.counters.samples_total


def _or_empty(read: Any, doc_id: int) -> Any:
    """What a record says of a document that may be the very thing that failed."""
    try:
        value = read(doc_id)
    except DocumentError:
        return ""
    return "" if value is None else value

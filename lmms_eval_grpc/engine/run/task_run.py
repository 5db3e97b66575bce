"""One task's way from open questions to its score."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError, Reporter, Stage, TaskScore
from lmms_eval_grpc.engine.models.protocol import Backend, GenerationResponse
from lmms_eval_grpc.engine.record.baseline import Baseline, compare_with_baseline
from lmms_eval_grpc.engine.record.samples import Outcome, SampleRecord, scored_records, unscored_record
from lmms_eval_grpc.engine.run.answers import ask, expected_parts, scored_value
from lmms_eval_grpc.engine.run.log import AnswerKey, RunLog
from lmms_eval_grpc.engine.run.policy import TokenBudget, check_errors
from lmms_eval_grpc.engine.run.progress import Progress, StageClock
from lmms_eval_grpc.engine.run.sample_file import SampleFile
from lmms_eval_grpc.engine.run.sample_records import describe_sample
from lmms_eval_grpc.engine.scoring.aggregate import ScoredSample, aggregate_task
from lmms_eval_grpc.engine.scoring.pool import ScoringPool
from lmms_eval_grpc.engine.scoring.process import FilteredScore, ScoringError
from lmms_eval_grpc.engine.tasks.task import Task

_TOLD_TOGETHER = 100
"""Samples of an earlier attempt that are scored before the reporter is asked again whether to stop."""
_POLL_SECONDS = 0.2
"""How long a judge is waited for before the reporter is asked again whether to stop."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What the tasks of one attempt share."""

    config: EvaluationConfig
    backend: Backend
    log: RunLog
    samples: SampleFile | None
    """None: samples are not recorded."""
    progress: Progress
    clock: StageClock
    reporter: Reporter
    budget: TokenBudget
    baseline: Baseline | None = None
    """The earlier run that scores are compared with."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the task's functions run that know nothing of threads."""


def run_task(context: RunContext, task: Task, doc_ids: Sequence[int]) -> TaskScore:
    """Answers, scores and aggregates one task. No batch ever holds another task's documents.

    Raises EvaluationCancelled, and EvaluationError when too many samples fail or the task cannot be aggregated.
    """
    with ScoringPool(task, lock=context.lock) as pool:
        return _TaskRun(context, task, doc_ids, pool).run()


@dataclass(frozen=True, slots=True)
class _Answered:
    """What a sample's records tell beside its scores."""

    responses: Sequence[GenerationResponse]
    prompt: str | None
    """None: it is still to be read from the task."""


class _TaskRun:
    """A sample is *open* until all its responses are there, *settled* then, and *scored* or *failed* in the end.

    Settled samples are scored at once, or wait for a judge while the model goes on. Scores and failures are taken in
    the order in which samples were settled, whatever order judges answer in.
    """

    def __init__(self, context: RunContext, task: Task, doc_ids: Sequence[int], pool: ScoringPool) -> None:
        self.context = context
        self.task = task
        self.doc_ids = doc_ids
        self._pool = pool
        self._expected: dict[int, int] = {}
        """Requests by document."""
        self._pending: dict[int, dict[int, GenerationResponse]] = {}
        """Responses by request of open samples that have some."""
        self._settled: set[int] = set()
        self._unscored: dict[int, _Answered] = {}
        """Settled samples that the pool has."""
        self._scored: list[ScoredSample] = []
        self._failed: list[SampleRecord] = []
        """Written at the task's end: until then another attempt may still answer them."""
        self._prompts: dict[int, str] = {}
        """Of open samples whose requests were built."""

    def run(self) -> TaskScore:
        context, began = self.context, time.monotonic()
        context.progress.counters.begin_task(self.task.name, len(self.doc_ids))
        open_keys = self._take_up()
        context.progress.report(Stage.GENERATING)
        if open_keys and not context.budget.is_spent:
            self._generate(open_keys)
        with context.clock.stage(Stage.SCORING):
            context.progress.report(Stage.SCORING)
            self._await_judges()
            skipped = self._skip_rest()
            self._scored.sort(key=lambda sample: sample.doc_id)
            seconds = time.monotonic() - began
            errored = len(self._failed)
            score = aggregate_task(
                self.task, self._scored, len(self.doc_ids), errored, seconds=seconds, skipped=len(skipped)
            )
            if context.baseline is not None:
                score = compare_with_baseline(context.baseline, self.task, score, self._scored)
        # From here on the task's failures are final: recorded before they are shown, or a kill in between would let the
        # next attempt answer samples whose errors readers have already seen.
        context.log.record_finished(self.task.identity, self.task.name)
        if context.samples is not None:
            context.samples.append([*self._failed, *skipped])
        context.reporter.task_finished(score)
        return score

    def _take_up(self) -> list[AnswerKey]:
        """Uses what earlier attempts answered; returns what is still to be asked."""
        context, identity = self.context, self.task.identity
        failures_are_final = context.log.is_finished(identity)
        open_keys: list[AnswerKey] = []
        with context.clock.stage(Stage.SCORING):
            for doc_id in self.doc_ids:
                answered: dict[int, GenerationResponse] = {}
                parts = expected_parts(self.task, doc_id)
                self._expected[doc_id] = len(parts)
                for repeat in parts:
                    key = AnswerKey(identity, doc_id, repeat)
                    response = context.log.answers.get(key)
                    if response is not None and (response.error is None or failures_are_final):
                        answered[repeat] = response
                    else:
                        open_keys.append(key)
                if len(answered) == len(parts):
                    context.progress.counters.samples_resumed += 1
                    self._settle(doc_id, answered, prompt=None)
                    self._take_scores()
                    if len(self._settled) % _TOLD_TOGETHER == 0:  # scorers may be slow, and samples many
                        context.progress.report(Stage.SCORING)
                        context.progress.stop_if_cancelled()
                elif answered:
                    self._pending[doc_id] = answered
        return open_keys

    def _generate(self, keys: Sequence[AnswerKey]) -> None:
        """Asks the model until all is answered or the budget is spent; every batch is on disk before it is scored."""
        context = self.context
        progress, clock = context.progress, context.clock
        answers = ask(context.backend, self.task, keys, context.lock, self._prompts)
        with clock.stage(Stage.GENERATING), closing(answers) as batches:
            progress.stop_if_cancelled()
            for batch in batches:
                pairs = [(keys[answer.index], answer.response) for answer in batch]
                if pairs:
                    context.log.record_answers(pairs, self.task.name)
                    generated = [response.output_tokens for _, response in pairs if not response.cached]
                    if generated:
                        progress.counters.note_batch(len(generated), sum(generated))
                        context.budget.spent += sum(generated)
                with clock.stage(Stage.SCORING):
                    self._accept(pairs)
                    self._take_scores()
                progress.report(Stage.GENERATING)
                progress.stop_if_cancelled()
                if context.budget.is_spent:
                    return

    def _accept(self, pairs: Iterable[tuple[AnswerKey, GenerationResponse]]) -> None:
        for key, response in pairs:
            answered = self._pending.setdefault(key.doc_id, {})
            answered[key.repeat] = response
            if len(answered) == self._expected[key.doc_id]:
                del self._pending[key.doc_id]
                if not all(given.cached for given in answered.values()):
                    self.context.progress.counters.generated_samples += 1
                self._settle(key.doc_id, answered, self._prompts.pop(key.doc_id, None))

    def _settle(self, doc_id: int, answered: Mapping[int, GenerationResponse], prompt: str | None) -> None:
        """Counts one sample whose responses are all there, and hands it over to be scored."""
        counters = self.context.progress.counters
        responses = [answered[repeat] for repeat in sorted(answered)]
        self._settled.add(doc_id)
        counters.note_sample(responses)
        failure = next((response.error for response in responses if response.error is not None), None)
        if failure is not None:
            self._fail(doc_id, "model_error", failure, _Answered(responses, prompt))
            return
        self._unscored[doc_id] = _Answered(responses, prompt)
        self._pool.submit(doc_id, [scored_value(response) for response in responses])

    def _take_scores(self) -> None:
        """Records the samples that have been scored, or could not be."""
        for doc_id, outcome in self._pool.finished():
            answered = self._unscored.pop(doc_id)
            if isinstance(outcome, ScoringError):
                self._fail(doc_id, outcome.outcome, outcome.message, answered)
            else:
                self._scored.append(ScoredSample(doc_id, tuple(map(_without_text, outcome))))
                self.context.progress.counters.samples_scored += 1
                self._record(doc_id, outcome, answered)

    def _await_judges(self) -> None:
        progress = self.context.progress
        self._take_scores()
        while self._pool.waiting:
            self._pool.wait(_POLL_SECONDS)
            self._take_scores()
            progress.report(Stage.SCORING)
            progress.stop_if_cancelled()

    def _record(self, doc_id: int, scores: Sequence[FilteredScore], answered: _Answered) -> None:
        samples = self.context.samples
        if samples is None:
            return
        unwritten = [score for score in scores if not samples.has(self.task.name, doc_id, score.filter, "ok")]
        if unwritten:
            samples.append(scored_records(self._describe(doc_id, answered), unwritten))

    def _fail(self, doc_id: int, outcome: Outcome, reason: str, answered: _Answered) -> None:
        self.context.progress.counters.samples_errored += 1
        self._failed.append(unscored_record(self._describe(doc_id, answered), outcome, reason))
        check_errors(
            self.task.name,
            errored=len(self._failed),
            asked=len(self.doc_ids),
            tolerated=self.context.config.max_error_share,
            newest=reason,
        )

    def _skip_rest(self) -> list[SampleRecord]:
        """Records of the samples that are still open: none, unless the budget was spent.

        Raises EvaluationError BACKEND_FAILED where the backend owes answers.
        """
        left = [doc_id for doc_id in self.doc_ids if doc_id not in self._settled]
        if not left:
            return []
        budget = self.context.budget
        if not budget.is_spent:
            counts = f"{len(left)} of {len(self.doc_ids)} samples"
            raise EvaluationError("BACKEND_FAILED", f"task {self.task.name}: the model left {counts} unanswered")
        error = f"the budget of generated tokens (max_tokens={budget.tokens}) was spent before the sample was answered"
        records = []
        for doc_id in left:
            responses = list(self._pending.get(doc_id, {}).values())
            self.context.progress.counters.note_usage(responses)
            # A prompt that was not built is not worth the decoding of its media.
            common = self._describe(doc_id, _Answered(responses, self._prompts.get(doc_id, "")))
            records.append(unscored_record(common, "budget_exceeded", error))
        return records

    def _describe(self, doc_id: int, answered: _Answered) -> dict[str, Any]:
        with self.context.lock:
            return describe_sample(self.task, doc_id, answered.responses, answered.prompt)


def _without_text(score: FilteredScore) -> FilteredScore:
    """As it is kept until the task's end: aggregations read no responses, which are long and on disk."""
    return replace(score, filtered_responses=())

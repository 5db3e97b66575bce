"""One task, ready to run: its documents, and the request, target and digest of each."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.data.documents import Documents
from lmms_eval_grpc.engine.models.protocol import GenerationRequest, LoglikelihoodRequest, Message, Request
from lmms_eval_grpc.engine.scoring.filters import Pipeline
from lmms_eval_grpc.engine.scoring.metrics import Metric
from lmms_eval_grpc.engine.tasks import document_values, messages, prompts
from lmms_eval_grpc.engine.tasks.config import TaskConfig
from lmms_eval_grpc.engine.tasks.fewshot import FewShot
from lmms_eval_grpc.engine.tasks.templates import render

_CONTAINERS = (dict, list)
_PROBED_DOCUMENTS = 20
"""How many documents may be broken before one that is not tells what the task's targets look like."""


class DocumentError(EvaluationError):
    """One document could not become a request or a target: a corrupt image, a function of the task's that raised.

    Its reason is ``DOCUMENT_FAILED``. Other documents of the task may be fine.
    """

    def __init__(self, task: str, doc_id: int, message: str) -> None:
        super().__init__("DOCUMENT_FAILED", message)
        self.task = task
        self.doc_id = doc_id


class Task:
    """A task as :func:`.load.load_tasks` makes it. Does not change, and may be asked for documents in any order."""

    def __init__(
        self,
        config: TaskConfig,
        documents: Documents,
        evaluation: EvaluationConfig,
        *,
        split: str,
        metrics: tuple[Metric, ...],
        pipelines: tuple[Pipeline, ...],
        reasoning_tags: tuple[tuple[str, str], ...],
        source_digests: Mapping[Path, str],
        dataset_fingerprint: str,
        fewshot: FewShot | None = None,
    ) -> None:
        self.config = config
        self.documents = documents
        self.split = split
        """Name of the evaluated split."""
        self.metrics = metrics
        self.pipelines = pipelines
        """The filter pipelines; each is scored on its own."""
        self.reasoning_tags = reasoning_tags
        """Pairs of tags whose content is removed before scoring; empty: nothing is removed."""
        self.dataset_fingerprint = dataset_fingerprint
        self.evaluation = evaluation
        self.fewshot = fewshot
        """Where examples in the prompts come from; None: there are none."""
        self._source_digests = dict(source_digests)
        self._recent: tuple[int, dict[str, Any]] | None = None

    @property
    def source_digests(self) -> dict[str, str]:
        """SHA-256 of the Python files that the task's functions came from and of the modules of the task's folder and
        tree that those import, by folder and name; by more folders where two would be called alike."""
        names = _short_names(sorted(self._source_digests))
        return {name: self._source_digests[path] for path, name in names.items()}

    @property
    def name(self) -> str:
        return self.config.task

    @property
    def version(self) -> str:
        return self.config.version

    @property
    def num_fewshot(self) -> int:
        """Examples in each prompt."""
        return self.config.num_fewshot or 0

    @property
    def scores_likelihoods(self) -> bool:
        """Whether the model is asked how likely it finds given texts, and generates nothing."""
        return self.config.output_type in ("multiple_choice", "loglikelihood")

    @property
    def repeats(self) -> int:
        """Responses to ask for per document: the evaluation's, or the task's where that says 1.

        Always 1 for likelihoods, which come out alike every time.
        """
        if self.scores_likelihoods:
            return 1
        return self.evaluation.repeats if self.evaluation.repeats > 1 else self.config.repeats

    @property
    def total_documents(self) -> int:
        return len(self.documents)

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """By metric; a metric whose direction nobody states is absent."""
        return MappingProxyType(
            {metric.name: metric.higher_is_better for metric in self.metrics if metric.higher_is_better is not None}
        )

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 (hexadecimal) of everything on the task's side that requests and scores depend on.

        The resolved configuration, the source of the task's Python files and of the helpers that they import, the data,
        the system text and the reasoning tags; neither paths nor machine names, so that two machines agree.
        """
        config = self.config.dump()
        if isinstance(config.get("dataset_kwargs"), dict):
            # The data themselves are in the fingerprint; where they lie and with which token they were got is no part.
            config["dataset_kwargs"] = {
                key: value
                for key, value in config["dataset_kwargs"].items()
                if key not in ("data_files", "token", "cache_dir")
            }
        if self.config.dataset_path is not None and Path(self.config.dataset_path).is_absolute():
            config["dataset_path"] = Path(self.config.dataset_path).name
        parts: dict[str, Any] = {
            "config": config,
            "sources": sorted(f"{path.name} {digest}" for path, digest in self._source_digests.items()),
            "dataset": [self.dataset_fingerprint, self.split, self.total_documents],
            "system_instruction": self.evaluation.system_instruction,
            "reasoning_tags": self.reasoning_tags,
        }
        if self.config.output_type == "generate_until_agentic":
            parts["agentic_trace_mode"] = self.evaluation.agentic_trace_mode
        if self.evaluation.process_with_media:
            parts["process_with_media"] = True
        if self.documents.order_digest:
            # A function that makes documents may draw, or follow the order of a set.
            parts["documents"] = self.documents.order_digest
        if self.fewshot is not None:
            parts["fewshot"] = [
                self.fewshot.fingerprint,
                self.fewshot.seed,
                self.evaluation.fewshot_as_multiturn,
                sorted(self.evaluation.compat),
            ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def prompt_policy(self) -> dict[str, Any]:
        """How the prompt is put together, for the manifest."""
        return {
            "messages": "doc_to_messages" if self.config.doc_to_messages is not None else "doc_to_visual + doc_to_text",
            "system_message": [
                name
                for name, value in (
                    ("system_instruction", self.evaluation.system_instruction),
                    ("description", self.config.description),
                )
                if value
            ],
            "num_fewshot": self.num_fewshot,
            "fewshot": None if self.fewshot is None else "turns" if self.evaluation.fewshot_as_multiturn else "text",
            "continuation": "choice without target_delimiter" if self.scores_likelihoods else None,
        }

    def doc_ids(self, limit: int | float | None = None, offset: int = 0) -> range:
        """The documents to run: ``offset`` are skipped first, then ``limit`` counts.

        ``limit`` is None or -1 (all), a number of documents, or a share in (0, 1) of this task's own documents, rounded
        up.

        Raises EvaluationError INVALID_LIMIT for values that make no sense, NO_DOCUMENTS when nothing is left.
        """
        total = self.total_documents
        if offset < 0:
            raise EvaluationError("INVALID_LIMIT", f"offset must not be negative, but is {offset}")
        ids = range(total)[offset:][: _count(limit, total)]
        if not ids:
            message = f"offset {offset} and limit {limit} select none of the {total} documents; lower the offset"
            raise EvaluationError("NO_DOCUMENTS", f"task {self.name}: {message}")
        return ids

    def parts(self, doc_id: int) -> range:
        """Numbers of the requests that document ``doc_id`` takes.

        One per repeat; for multiple choice one per choice, followed by one per choice without the question where the
        metric ``acc_mutual_info`` needs those. Raises DocumentError.
        """
        if self.config.output_type != "multiple_choice":
            return range(self.repeats)
        try:
            choices = self._choices(self.documents.without_media(doc_id))
        except Exception:  # a function may look at media, which are too dear to decode for all the others
            try:
                choices = self._choices(self.documents.with_media(doc_id))
            except Exception as error:
                raise self._document_error(doc_id, "doc_to_choice failed", error) from error
        compared = any(metric.name == "acc_mutual_info" for metric in self.metrics)
        return range(len(choices) * (2 if compared else 1))

    def build_request(self, doc_id: int, part: int = 0) -> Request:
        """The request number ``part`` for document ``doc_id``; its images are decoded now. Raises DocumentError."""
        try:
            if self.scores_likelihoods:
                return self._likelihood_request(doc_id, part)
            return self.generation_request(self.conversation(doc_id), f"{doc_id} {part}")
        except Exception as error:
            raise self._document_error(doc_id, "no request could be built", error) from error

    def generation_request(self, turns: Sequence[Message], question: str) -> GenerationRequest:
        """A request for an answer to ``turns``, with this task's generation arguments.

        ``question`` tells it from the task's other requests; with the seed of torch it decides what is drawn.
        """
        seed = self.evaluation.seed[2]
        draw = "" if seed is None else f"{seed} {question}"
        return GenerationRequest(turns, _own(self.config.generation_kwargs or {}), draw)

    def conversation(self, doc_id: int) -> list[Message]:
        """The messages for document ``doc_id``: examples, its own messages and the system text."""
        document = self.documents.with_media(doc_id)
        return self.complete(doc_id, document, prompts.own_messages(self.config, self.documents, document))

    def complete(self, doc_id: int, document: Mapping[str, Any], turns: Sequence[Message]) -> list[Message]:
        """``turns`` about ``document`` with examples and the system text."""
        if self.fewshot is not None:
            as_multiturn = self.evaluation.fewshot_as_multiturn
            turns = prompts.with_examples(self.config, turns, self.fewshot, doc_id, as_multiturn)
        return messages.with_system_text(turns, self._system_text(document))

    def _likelihood_request(self, doc_id: int, part: int) -> LoglikelihoodRequest:
        document = self._recent_document(doc_id)
        if self.config.output_type == "loglikelihood":
            turns = prompts.own_messages(self.config, self.documents, document)
            continuation = prompts.answer(self.config, self.documents, document)
            return LoglikelihoodRequest(self.complete(doc_id, document, turns), continuation)
        choices = self._choices(document)
        if part >= len(choices):  # how likely the choice is by itself
            return LoglikelihoodRequest([messages.user_turn((), "")], choices[part - len(choices)])
        columns = self.documents.columns
        asked = None
        if self.config.doc_to_text is not None:
            asked = document_values.doc_to_text(self.config, columns, document)
        if isinstance(asked, int) and not isinstance(asked, bool):
            # The choices are ways to begin, and the target is what goes on; the number says which is right.
            visuals = document_values.doc_to_visual(self.config, columns, document)
            turns = messages.normalise([messages.user_turn(visuals, choices[part])])
            continuation = str(document_values.doc_to_target(self.config, columns, document))
        else:
            turns = prompts.own_messages(self.config, self.documents, document)
            continuation = choices[part]
        return LoglikelihoodRequest(self.complete(doc_id, document, turns), continuation)

    def _choices(self, document: Mapping[str, Any]) -> list[str]:
        return [str(choice) for choice in document_values.doc_to_choice(self.config, self.documents.columns, document)]

    def _recent_document(self, doc_id: int) -> dict[str, Any]:
        """The document with media, decoded once for requests that follow each other."""
        if self._recent is None or self._recent[0] != doc_id:
            self._recent = (doc_id, self.documents.with_media(doc_id))
        return dict(self._recent[1])

    def input_text(self, doc_id: int) -> str:
        """The text of document ``doc_id``'s prompt, media left out.

        With the request at hand, ``prompt_text(request.messages)`` of :mod:`.messages` is the same without decoding the
        images again. Raises DocumentError.
        """
        return messages.prompt_text(self.build_request(doc_id).messages)

    def target(self, doc_id: int) -> Any:
        """The reference answer of document ``doc_id``, as the task gives it; None if the task has no ``doc_to_target``.

        Raises DocumentError.
        """
        if self.config.doc_to_target is None:
            return None
        try:
            return document_values.doc_to_target(self.config, self.documents.columns, self.scoring_document(doc_id))
        except Exception as error:
            raise self._document_error(doc_id, "doc_to_target failed", error) from error

    def doc_hash(self, doc_id: int) -> str:
        """SHA-256 of document ``doc_id``'s values, the bytes of its media included. Decodes nothing."""
        return self.documents.digest(doc_id)

    def scoring_document(self, doc_id: int) -> dict[str, Any]:
        """Document ``doc_id`` as scorers get it: without media, unless the task sets ``process_results_use_image`` or
        the evaluation ``process_with_media``."""
        if self.config.process_results_use_image or self.evaluation.process_with_media:
            return self.documents.with_media(doc_id)
        return self.documents.without_media(doc_id)

    @functools.cached_property
    def has_several_targets(self) -> bool:
        """Whether targets are lists of acceptable answers; judged by the first document that has a target to read."""
        for doc_id in range(min(self.total_documents, _PROBED_DOCUMENTS)):
            try:
                return isinstance(self.target(doc_id), list)
            except DocumentError:
                continue
        return False

    @functools.cached_property
    def aggregation_arguments(self) -> SimpleNamespace:
        """What an aggregation's parameter ``args`` gets: the command line's names, as such functions expect them."""
        config = self.evaluation
        output_path = None if config.output_dir is None else str(config.output_dir)
        return SimpleNamespace(
            model=config.model_name,
            model_args=",".join(f"{key}={value}" for key, value in config.model_args.items()),
            tasks=",".join(config.tasks),
            output_path=output_path,
            log_samples_suffix=config.log_samples_suffix,
            limit=config.limit,
            offset=config.offset,
            batch_size=config.batch_size,
            device=config.device,
            num_fewshot=config.num_fewshot,
            gen_kwargs=",".join(f"{key}={value}" for key, value in config.gen_kwargs.items()),
            log_samples=config.log_samples,
            predict_only=config.predict_only,
            seed=config.seed,
            repeats=self.repeats,
            process_with_media=config.process_with_media,
        )

    def _system_text(self, document: Mapping[str, Any]) -> str:
        parts = [self.evaluation.system_instruction or ""]
        if self.config.description:
            parts.append(render(self.config.description, document))
        return self.config.fewshot_delimiter.join(part for part in parts if part)

    def _document_error(self, doc_id: int, what: str, error: Exception) -> DocumentError:
        reason = f"{type(error).__name__}: {error}"
        return DocumentError(self.name, doc_id, f"task {self.name}, document {doc_id}: {what}: {reason}")


def _short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The last two parts of each path, or as many more as tell all of them apart."""
    depth = 2
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {path: "/".join(path.parts[-depth:]) for path in paths}


def _count(limit: int | float | None, total: int) -> int:
    """How many documents ``limit`` means for a task of ``total``; whole numbers may come as floats."""
    if limit is None or limit == -1:
        return total
    if not math.isfinite(limit) or limit <= 0:
        raise EvaluationError(
            "INVALID_LIMIT", f"limit must be a positive number of documents or a share in (0, 1), but is {limit}"
        )
    return math.ceil(total * limit) if limit < 1 else int(limit)


def _own(value: Any) -> Any:
    """A copy that shares nothing that can be changed: of what YAML makes, in a tenth of deepcopy's time."""
    if isinstance(value, dict):
        return {key: _own(item) if isinstance(item, _CONTAINERS) else item for key, item in value.items()}
    return [_own(item) for item in value] if isinstance(value, list) else value

"""One task, ready to run: its documents, and the request, target and digest of each."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.data.documents import Documents
from lmms_eval_grpc.engine.models.protocol import GenerationRequest, Message
from lmms_eval_grpc.engine.scoring.filters import Pipeline
from lmms_eval_grpc.engine.scoring.metrics import Metric
from lmms_eval_grpc.engine.tasks import document_values, messages
from lmms_eval_grpc.engine.tasks.config import TaskConfig
from lmms_eval_grpc.engine.tasks.templates import render

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
        self._source_digests = dict(source_digests)

    @property
    def name(self) -> str:
        return self.config.task

    @property
    def version(self) -> str:
        return self.config.version

    @property
    def num_fewshot(self) -> int:
        """Examples in each prompt. Always 0 today: tasks that ask for more are refused when they are loaded."""
        return self.config.num_fewshot or 0

    @property
    def repeats(self) -> int:
        """Responses to ask for per document: the evaluation's, or the task's where that says 1."""
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

        The resolved configuration, the source of the task's Python files, the data, the system text and the reasoning
        tags; neither paths nor machine names, so that two machines agree.
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
        parts = {
            "config": config,
            "sources": sorted(f"{path.name} {digest}" for path, digest in self._source_digests.items()),
            "dataset": [self.dataset_fingerprint, self.split, self.total_documents],
            "system_instruction": self.evaluation.system_instruction,
            "reasoning_tags": self.reasoning_tags,
        }
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

    def build_request(self, doc_id: int) -> GenerationRequest:
        """The request for document ``doc_id``; its images are decoded now. Raises DocumentError."""
        try:
            document = self.documents.with_media(doc_id)
            turns = messages.with_system_text(self._messages(document), self._system_text(document))
        except Exception as error:
            raise self._document_error(doc_id, "no request could be built", error) from error
        return GenerationRequest(messages=turns, generation=copy.deepcopy(self.config.generation_kwargs or {}))

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
        """Document ``doc_id`` as scorers get it: without media, unless the task sets ``process_results_use_image``."""
        if self.config.process_results_use_image:
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
            model=config.model,
            model_args=",".join(f"{key}={value}" for key, value in config.model_args.items()),
            tasks=",".join(config.tasks),
            output_path=output_path,
            log_samples_suffix="model_outputs",
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
        )

    def _messages(self, document: dict[str, Any]) -> list[Message]:
        config, columns = self.config, self.documents.columns
        if callable(config.doc_to_messages):
            return messages.normalise(document_values.doc_to_messages(config, document))
        if config.doc_to_messages is not None:
            return messages.normalise(config.doc_to_messages)
        visuals = document_values.doc_to_visual(config, columns, document)
        return messages.normalise([messages.user_turn(visuals, self._question(document))])

    def _question(self, document: dict[str, Any]) -> str:
        question = document_values.doc_to_text(self.config, self.documents.columns, document)
        if isinstance(question, list):
            raise TypeError("doc_to_text returned a list; several inputs per document are not supported yet")
        if isinstance(question, int) and self.config.doc_to_choice is not None:
            return document_values.doc_to_choice(self.config, self.documents.columns, document)[question]
        if question is None:
            raise TypeError("doc_to_text returned None")
        return str(question)

    def _system_text(self, document: dict[str, Any]) -> str:
        parts = [self.evaluation.system_instruction or ""]
        if self.config.description:
            parts.append(render(self.config.description, document))
        return self.config.fewshot_delimiter.join(part for part in parts if part)

    def _document_error(self, doc_id: int, what: str, error: Exception) -> DocumentError:
        reason = f"{type(error).__name__}: {error}"
        return DocumentError(self.name, doc_id, f"task {self.name}, document {doc_id}: {what}: {reason}")


def _count(limit: int | float | None, total: int) -> int:
    """How many documents ``limit`` means for a task of ``total``; whole numbers may come as floats."""
    if limit is None or limit == -1:
        return total
    if not math.isfinite(limit) or limit <= 0:
        raise EvaluationError(
            "INVALID_LIMIT", f"limit must be a positive number of documents or a share in (0, 1), but is {limit}"
        )
    return math.ceil(total * limit) if limit < 1 else int(limit)

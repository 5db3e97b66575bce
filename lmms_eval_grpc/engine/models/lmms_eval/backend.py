"""A model of lmms-eval behind the protocol of a backend."""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib.metadata
import inspect
import io
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.checkpoint_files import digest_checkpoint, digest_file
from lmms_eval_grpc.engine.models.entry import LoadSettings, ModelEntry
from lmms_eval_grpc.engine.models.hub_cache import resolve_commit
from lmms_eval_grpc.engine.models.lmms_eval import contract
from lmms_eval_grpc.engine.models.lmms_eval.contract import Document
from lmms_eval_grpc.engine.models.lmms_eval.draws import samples_by_default
from lmms_eval_grpc.engine.models.lmms_eval.loading import load_class, make_model
from lmms_eval_grpc.engine.models.lmms_eval.names import version_of
from lmms_eval_grpc.engine.models.protocol import (
    Answer,
    Capabilities,
    GenerationRequest,
    GenerationResponse,
    LoglikelihoodRequest,
    Request,
)
from lmms_eval_grpc.engine.models.sampling import always_samples, samples_unless_told
from lmms_eval_grpc.engine.packages import LMMS_EVAL_PREFIX, lmms_eval_folder
from lmms_eval_grpc.engine.record.redact import redact

BATCHES_PER_CALL = 4
LEAST_PER_CALL = 16
"""Requests that the model gets at a time: so many of its batches, but at least so many requests. It says nothing before
it has answered them all; and it sorts among them, so fewer would be slower."""

_NO_DIFFERENCE = frozenset({"batch_size", "max_batch_size", "device", "device_map"})
"""Arguments that no answer depends on."""


def load(entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> LmmsEvalBackend:
    """Imports lmms-eval's class and makes a model of it, in this process; :mod:`.loading` says what may be raised."""
    name = entry.name.removeprefix(LMMS_EVAL_PREFIX)
    model_class = load_class(name, force_simple=settings.force_simple)
    model = make_model(model_class, values, settings)
    return LmmsEvalBackend(model, _identify(model_class, values))


class LmmsEvalBackend:
    """Asks a model of lmms-eval some requests at a time."""

    def __init__(self, model: Any, identity: Mapping[str, Any]) -> None:
        self.model = model
        self._identity = identity
        self._simple = bool(getattr(model, "is_simple", True))
        self._next_number = 0
        self._has_answered = False

    @property
    def capabilities(self) -> Capabilities:
        """Likelihoods only of models that take a prompt and visuals: lmms-eval has no form for others' requests."""
        return Capabilities(
            modalities=frozenset({"text", "image", "video", "audio"}),
            loglikelihood=self._simple and not _only_refuses(type(self.model).loglikelihood),
            loglikelihood_is_loss=True,
            visual_cot=_overrides(type(self.model), "generate_visual_cot"),
            # What it makes of arguments that are not given only its code says.
            may_sample=always_samples if samples_by_default(type(self.model)) else samples_unless_told,
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._identity

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        return self._ask_all(requests)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        return self._ask_all(requests)

    def close(self) -> None:
        if hasattr(self.model, "clean"):
            self.model.clean()
        self.model = None

    def _ask_all(self, requests: Sequence[Request]) -> Iterator[list[Answer]]:
        size = max(LEAST_PER_CALL, BATCHES_PER_CALL * self._batch_size())
        for start in range(0, len(requests), size):
            answers: list[Answer] = []
            documents: dict[int, Document] = {}
            for index in range(start, min(start + size, len(requests))):
                try:
                    documents[index] = Document.of(self._next_number, requests[index])
                    self._next_number += 1
                except Exception as error:
                    answers.append(Answer(index, GenerationResponse(error=_describe(error))))
            responses = self._ask(list(documents.values()))
            yield answers + [Answer(index, one) for index, one in zip(documents, responses, strict=True)]

    def _ask(self, documents: Sequence[Document]) -> list[GenerationResponse]:
        """The documents' responses in their order. If the model fails over them together, each is asked about alone."""
        try:
            return self._call(documents)
        except Exception as error:
            # The whole of it is for the job's log.
            traceback.print_exc()
            if isinstance(error, EvaluationError):
                raise
            if isinstance(error, NotImplementedError):
                raise EvaluationError("UNSUPPORTED_TASK", f"{self._name} cannot do this: {_describe(error)}") from error
            from lmms_eval_grpc.engine.models.huggingface.memory import is_device_lost  # late: it imports torch

            if is_device_lost(error):
                raise EvaluationError("DEVICE_FAILED", f"the device failed: {_describe(error)}") from error
            if len(documents) == 1:
                return [GenerationResponse(error=_describe(error))]
        _release_memory()
        alone = [self._ask([document])[0] for document in documents]
        failures = {response.error for response in alone}
        if not self._has_answered and len(failures) == 1:
            # It is not these requests: with every further one it would be the same.
            raise EvaluationError("BACKEND_FAILED", f"{self._name} fails over every request: {failures.pop()}")
        return alone

    def _call(self, documents: Sequence[Document]) -> list[GenerationResponse]:
        if not documents:
            return []
        from lmms_eval.api.instance import Instance  # type: ignore[import-not-found]  # there once a model is

        method = self._method(documents[0].request)
        kind = "loglikelihood" if method == "loglikelihood" else "generate_until"
        self.model.task_dict = {contract.TASK: {contract.SPLIT: {document.number: document for document in documents}}}
        instances = [
            Instance(kind, contract.arguments(document, simple=self._simple), 0, contract.metadata(document))
            for document in documents
        ]
        with contextlib.redirect_stderr(_WithoutBars(sys.stderr)):
            answers = getattr(self.model, method)(instances)
        if not isinstance(answers, list | tuple) or len(answers) != len(documents):
            found = f"{len(answers)} answers" if isinstance(answers, list | tuple) else f"{answers!r:.100}"
            raise ValueError(f"{self._name} returned {found} to {len(documents)} requests")
        responses = [contract.read_answer(document, one) for document, one in zip(documents, answers, strict=True)]
        self._has_answered = self._has_answered or any(response.error is None for response in responses)
        return responses

    def _method(self, request: Request) -> str:
        if isinstance(request, LoglikelihoodRequest):
            return "loglikelihood"
        return "generate_visual_cot" if request.generation.get("visual_cot") else "generate_until"

    def _batch_size(self) -> int:
        try:
            return max(1, int(getattr(self.model, "batch_size", 1)))
        except (TypeError, ValueError):  # "auto"
            return 1

    @property
    def _name(self) -> str:
        return f"lmms-eval's {type(self.model).__name__}"


class _WithoutBars(io.TextIOBase):
    """A stream without progress bars: each call would begin one of its own, and a log has no use for them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if not text.startswith("\r"):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def _identify(model_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    folder, pretrained = lmms_eval_folder(), values.get("pretrained")
    weights = None
    if isinstance(pretrained, str) and Path(pretrained).expanduser().is_dir():
        weights = digest_checkpoint(Path(pretrained).expanduser())
    return {
        "backend": "lmms_eval",
        "pretrained": pretrained,
        "weights_digest": weights,
        "revision": resolve_commit(pretrained, values.get("revision")),
        "model_class": f"{model_class.__module__}.{model_class.__qualname__}",
        "files": {key: digest for key, value in sorted(values.items()) if (digest := _digest_named_file(value))},
        "arguments": redact({key: value for key, value in sorted(values.items()) if key not in _NO_DIFFERENCE}),
        "lmms_eval": "" if folder is None else version_of(folder),
        "torch": _version("torch"),
        "transformers": _version("transformers"),
    }


def _digest_named_file(value: Any) -> str | None:
    """Of the file that an argument names, as a prompt or a template; None where it names none."""
    try:
        if not isinstance(value, str) or not Path(value).expanduser().is_file():
            return None
        return digest_file(Path(value).expanduser()).hex()
    except (OSError, ValueError, RuntimeError):  # too long for a name, say, or the home of nobody
        return None


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _overrides(model_class: type, name: str) -> bool:
    """Whether the class has a method of its own in place of that of lmms-eval's base class."""
    base = next((one for one in reversed(model_class.__mro__) if name in vars(one)), None)
    return base is not None and getattr(model_class, name) is not vars(base)[name]


def _only_refuses(function: Any) -> bool:
    """Whether the function's body is nothing but an exception or a failing assertion."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    definition = tree.body[0]
    body = [
        one for one in getattr(definition, "body", []) if not (isinstance(one, ast.Expr) and _is_constant(one.value))
    ]
    return bool(body) and (isinstance(body[0], ast.Raise) or (isinstance(body[0], ast.Assert) and _is_false(body[0])))


def _is_constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant)


def _is_false(statement: ast.Assert) -> bool:
    return isinstance(statement.test, ast.Constant) and not statement.test.value


def _release_memory() -> None:
    """Gives back what the failed call left behind; it may have failed for want of memory."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _describe(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()

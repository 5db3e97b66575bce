"""Verification of one answer: extractors one after another, then a verifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lmms_eval_grpc.engine.judge.extractors import EXTRACTORS, Extractor
from lmms_eval_grpc.engine.judge.verifiers import VERIFIERS, CompositeVerifier, Verifier, VerifyResult

T = TypeVar("T")


class VerificationPipeline:
    """Call it with question, prediction and ground truth; keyword arguments reach every part."""

    def __init__(self, extractors: Sequence[Extractor] | None = None, verifier: Verifier | None = None) -> None:
        if verifier is None:
            raise ValueError("a verification pipeline needs a verifier")
        self.extractors = list(extractors or ())
        self.verifier = verifier

    def verify(self, question: str, prediction: str, ground_truth: str, **kwargs: Any) -> VerifyResult:
        """The verdict; its metadata hold ``raw_prediction`` and ``extracted_prediction``. Raises JudgeError."""
        extracted = prediction
        for extractor in self.extractors:
            extracted = extractor(extracted, **kwargs)
        result = self.verifier.verify(question, extracted, ground_truth, **kwargs)
        result.metadata |= {"raw_prediction": prediction, "extracted_prediction": extracted}
        return result

    __call__ = verify


def build_verification_pipeline(config: Mapping[str, Any]) -> VerificationPipeline:
    """The pipeline of ``{"extractors": [{"type": …, …}, …], "verifier": {"type": …, …}}``.

    The verifier ``composite`` has a list ``verifiers`` of the same form. Raises ValueError for an unknown type or
    arguments that it does not take.
    """
    extractors = [_build(entry, EXTRACTORS, "extractor") for entry in config.get("extractors") or ()]
    return VerificationPipeline(extractors, _verifier(config.get("verifier")))


def _verifier(entry: Any) -> Verifier:
    if isinstance(entry, Mapping) and entry.get("type") == "composite":
        return CompositeVerifier([_verifier(part) for part in entry.get("verifiers") or ()])
    return _build(entry, VERIFIERS, "verifier")


def _build(entry: Any, known: Mapping[str, Callable[..., T]], kind: str) -> T:
    if not isinstance(entry, Mapping) or entry.get("type") not in known:
        raise ValueError(f"a {kind} needs a type, one of {', '.join(sorted(known))}, but is {entry!r:.200}")
    arguments = {key: value for key, value in entry.items() if key != "type"}
    try:
        return known[entry["type"]](**arguments)
    except TypeError as error:
        raise ValueError(f"{kind} {entry['type']!r}: {error}") from error

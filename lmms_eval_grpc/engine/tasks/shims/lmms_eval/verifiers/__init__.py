"""``lmms_eval.verifiers``: the engine's own rules and judges."""

from lmms_eval_grpc.engine.judge.extractors import (
    MCQExtractor,
    NumberExtractor,
    RegexExtractor,
    StripExtractor,
    StripReasoningExtractor,
)
from lmms_eval_grpc.engine.judge.pipeline import VerificationPipeline, build_verification_pipeline
from lmms_eval_grpc.engine.judge.verifiers import (
    CompositeVerifier,
    ContainsVerifier,
    ExactMatchVerifier,
    MCQMatchVerifier,
    NumericToleranceVerifier,
    Verifier,
    VerifyResult,
)

__all__ = [
    "CompositeVerifier",
    "ContainsVerifier",
    "ExactMatchVerifier",
    "MCQExtractor",
    "MCQMatchVerifier",
    "NumberExtractor",
    "NumericToleranceVerifier",
    "RegexExtractor",
    "StripExtractor",
    "StripReasoningExtractor",
    "VerificationPipeline",
    "Verifier",
    "VerifyResult",
    "build_verification_pipeline",
]

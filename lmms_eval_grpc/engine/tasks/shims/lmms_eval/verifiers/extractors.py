"""``lmms_eval.verifiers.extractors``."""

from lmms_eval_grpc.engine.judge.extractors import (
    MCQExtractor,
    NumberExtractor,
    RegexExtractor,
    StripExtractor,
    StripReasoningExtractor,
)

__all__ = ["MCQExtractor", "NumberExtractor", "RegexExtractor", "StripExtractor", "StripReasoningExtractor"]

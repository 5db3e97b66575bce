"""``lmms_eval.verifiers.openai``."""

from lmms_eval_grpc.engine.judge.verifiers import OpenAIVerifier

__all__ = ["OpenAIVerifier"]

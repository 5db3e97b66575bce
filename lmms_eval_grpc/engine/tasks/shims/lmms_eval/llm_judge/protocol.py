"""``lmms_eval.llm_judge.protocol``."""

from lmms_eval_grpc.engine.judge.protocol import Request, Response, ServerConfig

__all__ = ["Request", "Response", "ServerConfig"]

"""``lmms_eval.llm_judge``: the engine's own judges, which a task's code asks by lmms-eval's names."""

from lmms_eval_grpc.engine.judge.protocol import Request, Response, ServerConfig
from lmms_eval_grpc.engine.judge.server import JudgeServer, get_server

ServerInterface = JudgeServer

__all__ = ["Request", "Response", "ServerConfig", "ServerInterface", "get_server"]

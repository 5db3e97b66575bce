"""A language model that judges or reads answers, for the benchmarks that lmms-eval scores with one.

No benchmark needs it: without it each reports a metric computed by rules under a name of its own. Set the environment
variable ``LMMS_EVAL_GRPC_JUDGE_MODEL`` to the name of a model to have the judged metrics too; where it is asked says
:mod:`lmms_eval_grpc.engine.judge.endpoints` (``API_TYPE``, ``OPENAI_API_URL``, ``OPENAI_API_KEY`` and so on).
"""

import os

from lmms_eval_grpc.engine.judge.failures import JudgeError
from lmms_eval_grpc.engine.judge.protocol import Request, ServerConfig
from lmms_eval_grpc.engine.judge.server import get_server

MODEL_VARIABLE = "LMMS_EVAL_GRPC_JUDGE_MODEL"


def configured():
    return bool(os.environ.get(MODEL_VARIABLE))


def ask(prompt, max_tokens):
    """The judge's answer to ``prompt``, stripped. Raises JudgeError, which leaves the sample unscored."""
    config = ServerConfig(model_name=os.environ[MODEL_VARIABLE], max_tokens=max_tokens)
    content = get_server(config=config).evaluate(Request([{"role": "user", "content": prompt}])).content.strip()
    if not content:
        raise JudgeError("MALFORMED_JUDGEMENT", "the judge's answer is empty")
    return content

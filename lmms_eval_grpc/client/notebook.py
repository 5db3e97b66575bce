"""Has notebooks show the service's messages as they show the dictionaries: as tables."""

from __future__ import annotations

import sys
from typing import Any

from lmms_eval_grpc.client import dictionaries, rendering
from lmms_eval_grpc.v1 import job_pb2 as messages


def show_messages_as_html() -> None:
    """Under IPython, `Job` and `EvaluationResult` messages get an HTML form; elsewhere nothing happens."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        return
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type(messages.Job, lambda job: rendering.render_job(dictionaries.job(job)))
    formatter.for_type(
        messages.EvaluationResult, lambda result: rendering.render_result(dictionaries.evaluation_result(result))
    )

"""Preloading does what a template process needs of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lmms_eval_grpc.engine.models.preload import PRELOAD_ENVIRONMENT

TEMPLATE = """
import os, sys
from pathlib import Path
from lmms_eval_grpc.engine.models.preload import preload
assert "torch" not in sys.modules
preload()
import torch
assert len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
assert not torch.cuda.is_initialized()
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    known = set(sys.modules)
    from lmms_eval_grpc.engine.api import EvaluationConfig
    from lmms_eval_grpc.engine.run.evaluate import evaluate
    from tests.support.reporters import Recorder
    model_args = {"pretrained": sys.argv[1], "min_pixels": 3136}
    config = EvaluationConfig("qwen2_5_vl", ("handwritten_digits",), model_args, limit=4)
    (score,) = evaluate(config, Path(sys.argv[2]), Recorder()).tasks
    assert score.samples_scored == 4
    late = {name.partition(".")[0] for name in set(sys.modules) - known}
    assert not late & {"torch", "transformers", "datasets", "pandas", "accelerate"}, late
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_after_preloading_there_is_one_thread_no_cuda_and_a_fork_evaluates_without_further_imports(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", TEMPLATE, str(tiny("qwen2_5_vl")), str(tmp_path)]
    subprocess.run(command, check=True, timeout=240, env=os.environ | PRELOAD_ENVIRONMENT | {"PYTHONPATH": root})

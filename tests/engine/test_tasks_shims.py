"""Task code that imports lmms-eval runs without it, each case in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.support.task_files import write_yaml

WITHOUT_LMMS_EVAL = pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is not None, reason="lmms-eval is there")


def run(folder: Path, code: str, **environment: str) -> Any:
    """What ``code`` assigns to ``result``, after ``utils`` in ``folder`` was loaded as a task's code."""
    script = f"""
        import json, sys
        from pathlib import Path
        from lmms_eval_grpc.engine.tasks.functions import Sources, resolve_functions
        from lmms_eval_grpc.engine.tasks.yaml_loader import FunctionReference
        folder = Path({str(folder)!r})
        def load(name, folder=folder):
            return resolve_functions(FunctionReference(name, folder), Sources())
    """
    whole = textwrap.dedent(script) + textwrap.dedent(code) + "\nprint('\\n' + json.dumps(result))\n"
    done = subprocess.run(
        [sys.executable, "-c", whole],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LMMS_EVAL_GRPC_LMMS_EVAL": "none", **environment},
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@WITHOUT_LMMS_EVAL
def test_the_usual_imports_work(tmp_path: Path) -> None:
    utils = """
        from loguru import logger as eval_logger
        import lmms_eval.tasks._task_utils.file_utils as file_utils
        from lmms_eval import utils as lmms_utils
        from lmms_eval.api.instance import Instance
        from lmms_eval.api.metrics import anls, levenshtein_distance
        from lmms_eval.api.reasoning import strip_reasoning_tags
        from lmms_eval.api.registry import register_metric
        from lmms_eval.api.task import ConfigurableMessagesTask, ConfigurableTask
        from lmms_eval.azure_openai_compat import has_endpoint_support
        from lmms_eval.filters import Filter
        from lmms_eval.filters.extraction import ExtendedRegexFilter, MultiChoiceRegexFilter, RegexFilter
        from lmms_eval.filters.selection import TakeFirstFilter
        from lmms_eval.filters.transformation import MapFilter, StripThinkingFilter
        from lmms_eval.llm_judge import Request, ServerConfig, get_server
        from lmms_eval.llm_judge.protocol import ServerConfig as Same
        from lmms_eval.tasks._task_utils.default_template_yaml import load_default_template_yaml
        from lmms_eval.tasks._task_utils.file_utils import generate_submission_file
        from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
        from lmms_eval.tasks._task_utils.media_resolver import resolve_media_reference
        from lmms_eval.tasks._task_utils.point_format import parse_point2d
        from lmms_eval.tasks._task_utils.video_loader import get_cache_dir, get_video
        from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor
        from lmms_eval.utils import eval_logger as old_logger, sanitize_model_name
        from lmms_eval.verifiers import VerificationPipeline, VerifyResult
        from lmms_eval.verifiers.extractors import StripReasoningExtractor
        from lmms_eval.verifiers.openai import OpenAIVerifier

        eval_logger.info("loaded {} of {total}", 1, total=2)

        def results(folder):
            class Args:
                output_path = folder
            shout = ExtendedRegexFilter(ignore_case=True, ignore_punctuation=True)
            return [
                anls(["Paris"], ["paris"])["anls"],
                levenshtein_distance("kitten", "sitting"),
                strip_reasoning_tags("<t>x</t> y", [["<t>", "</t>"]]),
                sanitize_model_name("a/b/c:d"),
                RegexFilter("([0-9]+)").apply([["a 12 b 3", "none"]], [{}]),
                MultiChoiceRegexFilter("-").apply([["so red it is", "answer: B"]], [{"choices": ["red", "blue"]}]),
                MapFilter({"a": 1}, 0).apply([["a", "b"]], [{}]),
                StripThinkingFilter().apply([["<think>x</think>y"]], [{}]),
                TakeFirstFilter().apply([["a", "b"], []], [{}, {}]),
                shout.filter_ignores("Hello, World!"),
                shout.find_match(shout.regex, "#### 5", {"5": "five"}),
                extract_mcq_answer("The answer is (C)."),
                EvalAIAnswerProcessor()("The two dogs, dont!"),
                parse_point2d("[500, 250] and (0.1, 0.5)", 100, 200).tolist(),
                generate_submission_file("a.json", Args) == f"{folder}/submissions/a.json",
                lmms_utils.resolve_cache_dir("x", base_dir="/base"),
                has_endpoint_support(),
            ]
    """
    write_yaml(tmp_path, "utils.py", utils)
    assert run(tmp_path, f"result = load('utils.results')({str(tmp_path)!r})") == [
        1.0,
        3,
        "y",
        "b__c__d",
        [["12", "[invalid]"]],
        [["(A)", "(B)"]],
        [[1, 0]],
        [["y"]],
        ["a", ""],
        "hello world",
        "five",
        "C",
        "2 dogs don't",
        [[50, 50], [10, 100]],
        True,
        "/base/x",
        False,
    ]


@WITHOUT_LMMS_EVAL
def test_nothing_is_there_before_task_code_is_loaded_and_a_missing_part_says_what_it_takes(tmp_path: Path) -> None:
    write_yaml(tmp_path, "utils.py", "def f(doc):\n    return doc\n")
    code = """
        try:
            import lmms_eval
            result = ["importable"]
        except ImportError:
            result = ["not importable"]
        load("utils.f")
        import lmms_eval.utils
        try:
            lmms_eval.utils.no_such_function
        except AttributeError as error:
            result.append(str(error))
        try:
            import lmms_eval.models.qwen
        except ImportError as error:
            result.append(str(error))
    """
    assert run(tmp_path, code) == [
        "not importable",
        "module 'lmms_eval.utils' has no attribute 'no_such_function' without an installed lmms-eval",
        "No module named 'lmms_eval.models'",
    ]


def test_tasks_of_a_tree_import_each_other_by_name_and_relatively_and_are_loaded_once(tmp_path: Path) -> None:
    tree = tmp_path / "lmms_eval" / "tasks"
    write_yaml(tree, "one/utils.py", "print('one is run')\nVALUE = []\ndef f(doc):\n    return VALUE\n")
    text = """
        import os
        from lmms_eval.tasks.one.utils import VALUE
        from lmms_eval.tasks._task_utils.file_utils import generate_submission_file
        from .beside import NUMBER
        HOME = os.environ["HF_HOME"]
        def g(doc):
            return [VALUE, NUMBER, generate_submission_file]
    """
    write_yaml(tree, "two/utils.py", text)
    write_yaml(tree, "two/beside.py", "NUMBER = 7\n")
    write_yaml(tree, "_task_utils/file_utils.py", "generate_submission_file = 'the tree\\'s own'\n")
    code = """
        g, f = load("utils.g", folder / "two"), load("utils.f", folder / "one")
        f({}).append("shared")
        from lmms_eval_grpc.engine.tasks.functions import describe_callable
        result = [*g({}), describe_callable(g)]
    """
    assert run(tree, code) == [["shared"], 7, "the tree's own", "!function utils.g"]


def test_parts_that_are_not_ours_come_from_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "lmms_eval"
    write_yaml(tree, "__init__.py", "raise RuntimeError('the real package is not to be run')\n")
    write_yaml(tree, "loggers/tracker.py", "class Tracker:\n    name = 'real'\n")
    write_yaml(tree, "utils.py", "def get_file_datetime(name):\n    return 'real ' + name\n")
    text = """
        from lmms_eval.loggers.tracker import Tracker
        from lmms_eval.utils import get_file_datetime, sanitize_model_name
        def f(doc):
            return [Tracker.name, get_file_datetime("x"), sanitize_model_name("a/b")]
    """
    write_yaml(tree, "tasks/t/utils.py", text)
    assert run(tree / "tasks" / "t", "result = load('utils.f')({})") == ["real", "real x", "a__b"]


def test_the_real_package_is_left_alone_once_somebody_imported_it(tmp_path: Path) -> None:
    write_yaml(tmp_path, "site/lmms_eval/__init__.py", "REAL = True\n")
    write_yaml(tmp_path, "site/lmms_eval/utils.py", "def sanitize_model_name(name):\n    return 'real'\n")
    write_yaml(tmp_path, "utils.py", "from lmms_eval.utils import sanitize_model_name as f\n")
    code = f"""
        sys.path.insert(0, {str(tmp_path / "site")!r})
        import lmms_eval
        result = [lmms_eval.REAL, load("utils.f")("a")]
    """
    assert run(tmp_path, code) == [True, "real"]

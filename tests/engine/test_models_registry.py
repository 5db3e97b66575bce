"""The registry answers without importing a model library, and says what is wrong with arguments."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models import registry


def test_importing_and_asking_the_registry_imports_no_model_library() -> None:
    program = (
        "import sys\n"
        "from lmms_eval_grpc.engine.models import registry\n"
        "entry = registry.resolve('qwen2_5_vl')\n"
        "registry.missing_packages(entry), registry.closest('qwen'), entry.check_args({'pretrained': 'x', 'no': 1})\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'PIL', 'grpc', 'google.protobuf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_names_and_aliases_are_unique() -> None:
    names = [name for entry in registry.entries() for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))


def test_an_alias_resolves_to_its_entry() -> None:
    assert registry.resolve("hf") is registry.resolve("huggingface")
    assert registry.resolve("no_such_model") is None


def test_closest_names_come_nearest_first() -> None:
    assert registry.closest("qwen2_5vl")[0] == "qwen2_5_vl"


def test_all_faults_of_the_arguments_are_named_at_once() -> None:
    entry = registry.resolve("huggingface")
    assert entry is not None
    problems = entry.check_args({"max_pixel": 3, "dtype": "int3", "use_cache": "yes", "min_pixels": 2.5})
    found = {problem.field: problem.description for problem in problems}
    assert set(found) == {
        "model_args.pretrained",
        "model_args.max_pixel",
        "model_args.dtype",
        "model_args.use_cache",
        "model_args.min_pixels",
    }
    assert "'max_pixels'" in found["model_args.max_pixel"]
    assert "attn_implementation" in found["model_args.max_pixel"]
    assert "bfloat16" in found["model_args.dtype"]
    assert "true or false" in found["model_args.use_cache"]


def test_an_integer_passes_as_a_number_but_true_does_not_pass_as_an_integer() -> None:
    number = registry.ModelArgument(float, 1.0, "")
    assert number.accepts(2)
    assert not registry.ModelArgument(int, 1, "").accepts(True)


def test_creating_an_unknown_model_names_the_closest() -> None:
    with pytest.raises(EvaluationError, match="qwen2_5_vl") as caught:
        registry.create("qwen2_5_v", {"pretrained": "x"}, device="cpu")
    assert caught.value.reason == "UNKNOWN_MODEL"


def test_missing_packages_are_named_without_importing_them() -> None:
    entry = registry.ModelEntry("x", "", requires=("pillow", "surely-not-installed"))
    assert registry.missing_packages(entry) == ("surely-not-installed",)

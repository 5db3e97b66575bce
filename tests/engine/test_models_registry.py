"""The registry answers without importing a model library, and says what is wrong with arguments."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.entry import ModelArgument, ModelEntry
from lmms_eval_grpc.engine.models.generation_arguments import COMMON_KEYS


def test_importing_and_asking_the_registry_imports_no_model_library() -> None:
    program = (
        "import sys\n"
        "from lmms_eval_grpc.engine.models import registry\n"
        "entry = registry.resolve('qwen2_5_vl')\n"
        "entry.missing_packages(), registry.closest('qwen'), entry.check_args({'pretrained': 'x', 'no': 1})\n"
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
    assert registry.closest("openia") == ("openai",)
    assert set(registry.closest("qwen")) == {"qwen2_vl", "qwen3_vl"}
    assert registry.closest("nope") == ()


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
    number = ModelArgument(float, 1.0, "")
    assert number.accepts(2)
    assert not ModelArgument(int, 1, "").accepts(True)


def test_the_generation_arguments_read_from_transformers_are_those_of_its_configuration() -> None:
    from transformers import GenerationConfig  # late: heavy

    entry = registry.resolve("huggingface")
    assert entry is not None
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert entry.generation_keys() == fields | COMMON_KEYS


def test_creating_an_unknown_model_names_the_closest() -> None:
    with pytest.raises(EvaluationError, match="qwen2_5_vl") as caught:
        registry.create("qwen2_5_v", {"pretrained": "x"}, device="cpu")
    assert caught.value.reason == "UNKNOWN_MODEL"


def test_missing_packages_are_named_without_importing_them() -> None:
    entry = ModelEntry("x", "", "nowhere:load", {}, requires=("pillow", "surely-not-installed"))
    assert entry.missing_packages() == ("surely-not-installed",)


def test_packages_that_are_too_old_count_as_missing() -> None:
    entry = ModelEntry("x", "", "nowhere:load", {}, requires=("transformers>=5", "transformers>=99.1", "pillow>=9"))
    assert entry.missing_packages() == ("transformers>=99.1",)


def install_plugin(folder: Path, entry_points: str, **modules: str) -> dict[str, str]:
    """An environment in which a package with these entry points and modules is installed."""
    info = folder / "plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lmms_eval_grpc.models]\n{entry_points}")
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_a_plugin_brings_models_and_a_broken_one_costs_only_its_own(tmp_path: Path) -> None:
    environment = install_plugin(
        tmp_path,
        "a_broken = no_such_module:entries\nmine = mine:entries\n",
        mine="""
            from lmms_eval_grpc.engine.models.entry import ModelArgument, ModelEntry
            from lmms_eval_grpc.engine.models.protocol import Answer, Capabilities, GenerationResponse

            def entries():
                arguments = {"word": ModelArgument(str, "yes", "What it says.")}
                return [ModelEntry("parrot", "Says one word.", "mine:Parrot", arguments, ("bird",), requires=())]

            class Parrot:
                capabilities, identity = Capabilities(), {"backend": "parrot"}

                def __init__(self, entry, values, settings):
                    self.text = f"{values['word']} {settings.device}"

                def generate(self, requests):
                    yield [Answer(index, GenerationResponse(self.text)) for index in range(len(requests))]
            """,
    )
    program = """
        from lmms_eval_grpc.engine.models import registry
        assert registry.resolve("bird") is registry.resolve("parrot") is registry.entries()[-1]
        parrot = registry.create("bird", {"word": "no"}, device="cpu")
        ((answer,),) = parrot.generate([None])
        assert answer.response.text == "no cpu"
        print(len(registry.resolve("parrot").check_args({"wrod": "no"})))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"
    assert "a_broken = no_such_module:entries is left out: ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("backend", ["lmms_eval", "managed", "openai"])
def test_backends_that_run_elsewhere_work_beside_any_transformers(backend: str) -> None:
    """lmms-eval and inference servers want versions of their own, so nothing of transformers may be imported."""
    program = f"import sys, lmms_eval_grpc.engine.models.{backend}.backend\nassert 'transformers' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)

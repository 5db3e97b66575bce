"""Checking an evaluation at submission: everything at once, and nothing heavy."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.check import check_config
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.tasks.index import TaskIndex
from tests.support.task_files import write_yaml


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def check(checkpoint: Path, *folders: Path, **fields: Any) -> dict[str, str]:
    """The problems by field of a configuration that is right but for ``fields``."""
    values: dict[str, Any] = {
        "model": "huggingface",
        "tasks": ("handwritten_digits",),
        "model_args": {"pretrained": str(checkpoint)},
        "include_paths": folders,
    }
    config = EvaluationConfig(**(values | fields))
    problems = check_config(config, TaskIndex.scan([path for path in folders if path.is_dir()]))
    assert len({problem.field for problem in problems}) == len(problems)
    return {problem.field: problem.description for problem in problems}


def test_a_right_configuration_has_no_problems(checkpoint: Path) -> None:
    assert check(checkpoint) == {}
    assert (
        check(checkpoint, limit=0.5, offset=3, batch_size=4, repeats=2, reasoning_tags="none", seed=(None,) * 4) == {}
    )
    assert check(checkpoint, model_args={"pretrained": "org/model"}, limit=-1, tasks=("digits", "hand*")) == {}


def test_all_problems_come_at_once(checkpoint: Path) -> None:
    problems = check(
        checkpoint,
        model="huggingfase",
        tasks=("handwriten_digits", "handwritten_digits", ""),
        limit=0,
        offset=-1,
        batch_size=0,
        repeats=0,
        num_fewshot=-1,
        reasoning_tags="[",
        seed=(-1, 0, 0, 2**32),
        timezone="../../etc/passwd",
        bootstrap_iters=-1,
    )
    assert set(problems) == {
        "model", "tasks[0]", "tasks[2]", "limit", "offset", "batch_size", "repeats", "num_fewshot", "reasoning_tags",
        "seed[0]", "seed[3]", "timezone", "bootstrap_iters",
    }  # fmt: skip
    assert problems["model"].startswith("unknown model 'huggingfase'; did you mean 'huggingface'")
    assert problems["tasks[0]"].startswith("unknown task 'handwriten_digits'; did you mean 'handwritten_digits'")


@pytest.mark.parametrize("limit", [0, 0.0, -2, -0.5, math.nan, math.inf, True])
def test_limits_that_select_nothing_or_mean_nothing(checkpoint: Path, limit: float) -> None:
    assert "unset it for all" in check(checkpoint, limit=limit)["limit"]


def test_a_broken_number_of_documents(checkpoint: Path) -> None:
    assert "but is 2.5" in check(checkpoint, limit=2.5)["limit"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tasks": ()}, "tasks"),
        ({"model": ""}, "model"),
        ({"batch_size": 65537}, "batch_size"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"num_gpus": 0}, "num_gpus"),
        ({"seed": (1, 2)}, "seed"),
        ({"gen_kwargs": {"until": 3}}, "gen_kwargs.until"),
        ({"gen_kwargs": {"temperature": "hot"}}, "gen_kwargs.temperature"),
        ({"gen_kwargs": {"max_new_tokens": 0}}, "gen_kwargs.max_new_tokens"),
        ({"gen_kwargs": {"max_gen_toks": "many"}}, "gen_kwargs.max_gen_toks"),
        ({"num_fewshot": 0, "fewshot_as_multiturn": True}, "fewshot_as_multiturn"),
        ({"compat": frozenset({"everything"})}, "compat"),
        ({"baseline": "no_such_preset"}, "baseline"),
        ({"baseline": "/no/such/samples.jsonl"}, "baseline"),
        ({"baseline": "hf://user/repo", "predict_only": True}, "baseline"),
        ({"use_cache": Path(__file__)}, "use_cache"),
        ({"use_cache": Path(__file__) / "cache"}, "use_cache"),
        ({"use_cache": Path(__file__) / "cache.db"}, "use_cache"),
        ({"max_error_share": -0.1}, "max_error_share"),
        ({"max_error_share": 1.5}, "max_error_share"),
        ({"max_error_share": math.nan}, "max_error_share"),
        ({"max_error_share": True}, "max_error_share"),
        ({"force_simple": True}, "force_simple"),
        ({"agentic_trace_mode": "loud"}, "agentic_trace_mode"),
        ({"tasks": ("/no/such/task.yaml",)}, "tasks[0]"),
        ({"tasks": ("nothing*",)}, "tasks[0]"),
        ({"model_args": {}}, "model_args.pretrained"),
    ],
)
def test_each_field_names_itself(checkpoint: Path, fields: dict[str, Any], problem: str) -> None:
    assert list(check(checkpoint, **fields)) == [problem]


def test_a_cache_may_be_a_folder_or_a_file_in_one_and_need_not_exist(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "old.db").touch()
    for path in (tmp_path, tmp_path / "new" / "deep", tmp_path / "old.db", tmp_path / "new" / "cache.db"):
        assert check(checkpoint, use_cache=path) == {}
    assert not (tmp_path / "new").exists(), "checking makes nothing"


def test_several_devices_for_a_model_that_runs_elsewhere(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.resolve("huggingface")
    assert entry is not None
    assert check(checkpoint, num_gpus=2) == {}
    monkeypatch.setattr(registry, "resolve", lambda name: dataclasses.replace(entry, several_devices="refused"))
    assert check(checkpoint, num_gpus=1) == {}
    assert "so num_gpus must be 1, not 2" in check(checkpoint, num_gpus=2)["num_gpus"]


@pytest.mark.parametrize(
    ("model", "model_args", "takes"),
    [
        ("huggingface", {}, {"num_beams": 2, "min_p": 0.1, "bad_words_ids": [[1]]}),
        ("openai", {"model_version": "m"}, {"seed": 1, "min_p": 0.1, "reasoning_effort": "low"}),
        ("vllm", {}, {"seed": 1, "top_k": 3}),
    ],
)
def test_a_generation_argument_must_be_one_of_the_models(
    checkpoint: Path, model: str, model_args: dict[str, Any], takes: dict[str, Any]
) -> None:
    model_args = model_args or {"pretrained": str(checkpoint)}
    everybody = {"until": "x", "max_gen_toks": 4, "do_sample": True, "temperature": 1, "image_aspect_ratio": "pad"}
    assert check(checkpoint, model=model, model_args=model_args, gen_kwargs=everybody | takes) == {}
    problems = check(checkpoint, model=model, model_args=model_args, gen_kwargs={"top_pp": 1, "temprature": 0})
    assert set(problems) == {"gen_kwargs.top_pp", "gen_kwargs.temprature"}
    assert f"model {model!r} has no generation argument 'top_pp'; did you mean 'top_p'" in problems["gen_kwargs.top_pp"]
    assert "did you mean 'temperature'" in problems["gen_kwargs.temprature"]


def test_generation_arguments_of_a_backend_that_does_not_tell_them_are_let_through(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = registry.resolve("huggingface")
    assert entry is not None
    monkeypatch.setattr(registry, "resolve", lambda name: dataclasses.replace(entry, generation_keys=lambda: None))
    assert check(checkpoint, gen_kwargs={"whatever": 1}) == {}


def test_a_folder_that_holds_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    problems = check(checkpoint, model_args={"pretrained": str(tmp_path)})
    assert "no config.json" in problems["model_args.pretrained"]


@pytest.mark.parametrize("path", ["/no/such/checkpoint", "./no_such", "../no_such", "~/no_such_checkpoint_here"])
def test_a_checkpoint_path_must_exist(checkpoint: Path, path: str) -> None:
    problems = check(checkpoint, model_args={"pretrained": path})
    assert path in problems["model_args.pretrained"]
    assert "does not exist" in problems["model_args.pretrained"]


def test_a_checkpoint_must_be_a_folder(checkpoint: Path) -> None:
    file = checkpoint / "model.bin"
    file.touch()
    assert "is not a folder" in check(checkpoint, model_args={"pretrained": str(file)})["model_args.pretrained"]


def test_a_checkpoint_may_go_by_the_backends_own_name_for_it(checkpoint: Path) -> None:
    assert check(checkpoint, model="vllm", model_args={"model": str(checkpoint)}) == {}
    problems = check(checkpoint, model="vllm", model_args={"model": "/nowhere"})
    assert list(problems) == ["model_args.model"]
    assert "/nowhere" in problems["model_args.model"]


def test_the_model_of_a_server_elsewhere_is_no_folder_here(checkpoint: Path) -> None:
    for name in ("model", "pretrained", "model_version"):
        assert check(checkpoint, model="openai", model_args={name: "/weights/on/that/machine"}) == {}


def test_include_paths_must_exist(checkpoint: Path, tmp_path: Path) -> None:
    assert list(check(checkpoint, tmp_path, tmp_path / "gone")) == ["include_paths[1]"]


def test_tasks_of_include_paths_and_files_count(checkpoint: Path, tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "tasks", "mine.yaml", "task: mine\ntag: ours\n")
    assert check(checkpoint, tmp_path / "tasks", tasks=("mine", "ours", str(path))) == {}


def test_a_task_whose_file_is_broken_shows_why(checkpoint: Path, tmp_path: Path) -> None:
    write_yaml(tmp_path / "tasks", "mine.yaml", "task: [\n")
    assert "not valid YAML" in check(checkpoint, tmp_path / "tasks", tasks=("mine",))["tasks[0]"]


def test_kinds_of_tasks_that_no_backend_can_run_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    write_yaml(folder, "a.yaml", "task: a\noutput_type: generate_visual_cot\n")
    write_yaml(folder, "b.yaml", "task: b\nclass: !function x.Task\n")
    write_yaml(folder, "c.yaml", "task: c\noutput_type: multiple_choice\n")
    write_yaml(folder, "g.yaml", "group: g\ntask: [c]\naggregate_metric_list: [{metric: acc}]\n")
    write_yaml(folder, "h.yaml", "group: h\ntask: [nobody]\n")
    problems = check(checkpoint, folder, tasks=("a", "b", "g", "c", "h"))
    assert set(problems) == {"tasks[0]", "tasks[4]"}
    assert "draws while it thinks" in problems["tasks[0]"]


def test_a_model_that_draws_may_have_tasks_that_want_drawings(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_yaml(tmp_path / "tasks", "a.yaml", "task: a\noutput_type: generate_visual_cot\n")
    entry = registry.resolve("huggingface")
    assert entry is not None
    monkeypatch.setattr(registry, "resolve", lambda name: dataclasses.replace(entry, visual_cot=True))
    assert check(checkpoint, tmp_path / "tasks", tasks=("a",)) == {}


def test_no_shipped_model_claims_to_draw() -> None:
    assert not any(entry.visual_cot for entry in registry.entries())


def test_checking_takes_milliseconds(checkpoint: Path) -> None:
    config = EvaluationConfig(model="huggingfase", tasks=("handwriten_digits",) * 10)
    index = TaskIndex.scan()
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        check_config(config, index)
        best = min(best, time.perf_counter() - started)
    assert best < 0.25


@pytest.mark.parametrize(
    "module",
    [
        "lmms_eval_grpc.engine",
        "lmms_eval_grpc.engine.api",
        "lmms_eval_grpc.engine.check",
        "lmms_eval_grpc.engine.tasks.index",
        "lmms_eval_grpc.engine.record.samples",
    ],
)
def test_what_the_server_imports_is_light(module: str) -> None:
    script = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'PIL', 'jinja2', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The shipped task files against lmms-eval's: data, prompts, generation arguments and metric names."""

from __future__ import annotations

import pytest

from lmms_eval_grpc.engine.tasks.yaml_loader import FunctionReference, YamlReader
from tests.engine.benchmarks.made import SHIPPED
from tests.engine.benchmarks.reference import reference
from tests.support.lmms_eval_files import PACKAGE, require_lmms_eval

__all__ = ["reference"]

require_lmms_eval()


_COMPARED = (
    "dataset_path",
    "dataset_name",
    "test_split",
    "output_type",
    "lmms_eval_specific_kwargs",
    "model_specific_target_kwargs",
    "generation_kwargs",
)
_LLAVA_ONLY = "image_aspect_ratio"
_DIFFERENT_TOP_P = {"pope_adv", "pope_pop", "pope_random"}  # theirs is 0, without effect on greedy answers
_OWN_METRICS = {
    "mmbench_en_dev": {"undecided_by_rules"},
    "hallusion_bench_image": {"aAcc_parsed", "qAcc_parsed", "fAcc_parsed"},
    **{f"mathvista_testmini_{kind}": {"accuracy_parsed"} for kind in ("cot", "solution", "format")},
}
_SHIPPED_TASKS = sorted(
    path.stem
    for path in SHIPPED.rglob("*.yaml")
    if path.stem not in ("template", "handwritten_digits") and isinstance(YamlReader().read(path).get("task"), str)
)


@pytest.mark.parametrize("name", _SHIPPED_TASKS)
def test_data_prompts_generation_and_metric_names_are_those_of_lmms_eval(name: str) -> None:
    (ours_path,) = SHIPPED.rglob(f"{name}.yaml")
    theirs_path = PACKAGE / "tasks" / ours_path.parent.name / ours_path.name
    ours, theirs = YamlReader().read(ours_path), YamlReader().read(theirs_path)
    for key in _COMPARED:
        mine, other = ours.get(key), theirs.get(key)
        if key == "generation_kwargs" and other is not None:
            other = {name: value for name, value in other.items() if name != _LLAVA_ONLY}
            if name in _DIFFERENT_TOP_P:
                other = {**other, "top_p": 1.0}
        assert mine == (other or None), key
    written = {entry["metric"] for entry in theirs["metric_list"]} - {"submission"}
    assert {entry["metric"] for entry in ours["metric_list"]} - _OWN_METRICS.get(name, set()) == written
    filters = [entry["name"] for entry in theirs.get("filter_list", [])]
    assert [entry["name"] for entry in ours.get("filter_list", [])] == filters


@pytest.mark.parametrize("name", ["mathvista_testmini", "mvbench", "librispeech", "pope_full", "scienceqa_full"])
def test_groups_have_lmms_evals_members(name: str) -> None:
    (ours_path,) = SHIPPED.rglob(f"{name}.yaml")
    theirs_path = PACKAGE / "tasks" / ours_path.parent.name / ours_path.name
    ours, theirs = YamlReader().read(ours_path), YamlReader().read(theirs_path)
    assert (ours["group"], ours["task"]) == (theirs["group"], theirs["task"])


def test_functions_are_told_from_values() -> None:
    """The comparison above would be empty if a task's functions were strings."""
    (path,) = SHIPPED.rglob("mme.yaml")
    assert isinstance(YamlReader().read(path)["process_results"], FunctionReference)

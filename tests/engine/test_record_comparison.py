"""Two runs compared through their samples files."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.record.code_version import code_version
from lmms_eval_grpc.engine.record.comparison import MetricComparison, compare_runs, design_of, pair_samples
from lmms_eval_grpc.engine.record.samples import SampleRecord
from lmms_eval_grpc.engine.record.stored import StoredSample, read_samples
from lmms_eval_grpc.engine.stats import power


def run(scores: list[Any], metric: str = "acc", task: str = "toy", **more: Any) -> list[StoredSample]:
    return [StoredSample(task, i, "none", "ok", (), {metric: score}, **more) for i, score in enumerate(scores)]


def only(comparisons: list[MetricComparison]) -> MetricComparison:
    (one,) = comparisons
    return one


def test_a_clear_difference_has_a_winner() -> None:
    better, worse = [1.0] * 18 + [0.0] * 2, [0.0] * 10 + [1.0] * 8 + [0.0] * 2
    one = only(compare_runs(run(better), run(worse)))
    assert one.verdict == "first"
    assert (one.method, one.mcnemar and one.mcnemar.wins) == ("mcnemar_mid_p", 10)
    assert one.difference == pytest.approx(0.5)
    assert one.p_value == one.adjusted_p_value == pytest.approx(2 * 0.5**10 - 0.5**10)
    assert only(compare_runs(run(worse), run(better))).verdict == "second"
    assert only(compare_runs(run(better), run(worse), higher_is_better={"acc": False})).verdict == "second"


def test_a_small_difference_is_not_enough_evidence() -> None:
    one = only(compare_runs(run([1.0, 0.0, 1.0, 1.0]), run([1.0, 0.0, 0.0, 1.0])))
    assert one.verdict == "not_enough_evidence"
    assert one.difference == 0.25
    assert one.minimum_detectable_effect is not None
    assert one.minimum_detectable_effect > 0.25


def test_differences_that_differ_by_rounding_show_no_detectable_effect() -> None:
    one = only(compare_runs(run([0.1 * 3] * 11), run([0.1] * 11)))
    assert one.minimum_detectable_effect is None


def test_equal_runs_and_single_documents_are_not_enough_evidence() -> None:
    for first, second in (([1.0, 0.0], [1.0, 0.0]), ([1.0], [0.0]), ([0.0] * 10, [0.0] * 10)):
        one = only(compare_runs(run(first), run(second)))
        assert one.verdict == "not_enough_evidence"
        assert one.p_value >= 0.5
        assert one.minimum_detectable_effect is None, "these documents do not say what others would show"


def test_graded_scores_are_compared_by_permutation_and_repeat_with_the_seed() -> None:
    generator = random.Random(1)
    first = [{"score": generator.gauss(0.6, 0.1), "other": 5} for _ in range(40)]
    second = [{"score": generator.gauss(0.5, 0.1), "other": 5} for _ in range(40)]
    one = only(compare_runs(run(first), run(second), permutations=2000, seed=7))
    assert (one.method, one.verdict, one.mcnemar) == ("permutation", "first", None)
    assert compare_runs(run(first), run(second), permutations=2000, seed=7) == [one]


def test_clusters_make_evidence_of_many_documents_weaker() -> None:
    first = [float(cluster < 4) for cluster in range(5) for _ in range(20)]
    second = [float(cluster < 1) for cluster in range(5) for _ in range(20)]
    plain = only(compare_runs(run(first), run(second)))
    clusters = {("toy", i): i // 20 for i in range(100)}
    clustered = only(compare_runs(run(first), run(second), clusters=clusters))
    assert plain.verdict == "first"
    assert (clustered.verdict, clustered.method) == ("not_enough_evidence", "paired_t_clustered")


def test_several_metrics_are_corrected_for_being_several() -> None:
    first = run([1.0] * 8 + [0.0] * 4, metric="a") + run([1.0] * 12, metric="b")
    second = run([0.0] * 12, metric="a") + run([0.0] * 6 + [1.0] * 6, metric="b")
    a, b = compare_runs(first, second)
    assert (a.pairs.metric, b.pairs.metric) == ("a", "b")
    assert a.adjusted_p_value == pytest.approx(2 * a.p_value)
    assert b.adjusted_p_value >= b.p_value
    assert [one.pairs.metric for one in compare_runs(first, second, metrics=["b"])] == ["b"]


def test_documents_are_matched_by_number_and_errors_left_out() -> None:
    first = run([1.0, 0.0, 1.0, 1.0])
    second = list(reversed(run([0.0, 0.0, 1.0])))
    second[0] = StoredSample("toy", 2, "", "model_error", (), {})
    (pairs,) = pair_samples(first, second)
    assert (pairs.doc_ids, pairs.first, pairs.second) == ((0, 1), (1.0, 0.0), (0.0, 0.0))
    assert (pairs.only_first, pairs.only_second) == (2, 0)


def test_other_documents_under_the_same_numbers_are_refused() -> None:
    with pytest.raises(EvaluationError, match="document 0, and 1 more: the runs answered other documents") as caught:
        compare_runs(run([1.0, 0.0], doc_hash="x"), run([1.0, 0.0], doc_hash="y"))
    assert caught.value.reason == "DOCUMENTS_DIFFER"
    # A file of lmms-eval does not say which documents it is about.
    assert compare_runs(run([1.0, 0.0], doc_hash="x"), run([1.0, 0.0]))


def test_runs_without_a_common_metric_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"toy/a,none and toy/b,none") as caught:
        compare_runs(run([1.0], metric="a"), run([1.0], metric="b"))
    assert caught.value.reason == "NOTHING_TO_COMPARE"
    with pytest.raises(EvaluationError, match="none and none"):
        compare_runs([], [])


def test_a_design_is_taken_from_what_was_found() -> None:
    (pairs,) = pair_samples(run([1.0, 0.0, 1.0, 0.0]), run([1.0, 0.0, 1.0, 1.0]))
    design = design_of(pairs)
    assert design.deviation_first == pytest.approx(math.sqrt(1 / 3))
    assert design.correlation == pytest.approx(1 / math.sqrt(3))
    plan = power.plan(0.1, design, documents=4)
    assert plan.required_documents == power.required_documents(0.1, design)
    assert plan.achieved_power is not None
    assert plan.minimum_detectable_effect is not None
    assert power.plan(0.1).achieved_power is None
    (constant,) = pair_samples(run([1.0, 1.0]), run([0.0, 1.0]))
    assert design_of(constant).correlation == 0.0
    (single,) = pair_samples(run([1.0]), run([0.0]))
    with pytest.raises(ValueError, match="needs two documents"):
        design_of(single)


def test_samples_files_of_ours_are_compared(tmp_path: Path) -> None:
    for name, right in (("a", 9), ("b", 0)):
        records = [
            SampleRecord("toy", i, "none", "ok", scores={"acc": float(i < right)}, doc_hash=f"h{i}") for i in range(10)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(record.to_json() + "\n" for record in records))
    one = only(compare_runs(read_samples(tmp_path / "a.jsonl"), read_samples(tmp_path / "b.jsonl")))
    assert (one.verdict, one.mean_first, one.mean_second) == ("first", 0.9, 0.0)


def test_the_commit_of_a_checkout_and_of_a_further_work_tree(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    git = tmp_path / "main" / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs" / "heads" / "main").write_text(commit + "\n")
    assert code_version(tmp_path / "main") == {"commit": commit, "branch": "main"}
    worktree = git / "worktrees" / "side"
    worktree.mkdir(parents=True)
    (worktree / "HEAD").write_text("ref: refs/heads/a/side\n")
    (worktree / "commondir").write_text("../..\n")
    (git / "packed-refs").write_text(f"# pack-refs\n{commit[::-1]} refs/heads/a/side\n")
    (tmp_path / "side").mkdir()
    (tmp_path / "side" / ".git").write_text(f"gitdir: {worktree}\n")
    assert code_version(tmp_path / "side") == {"commit": commit[::-1], "branch": "a/side"}
    (git / "HEAD").write_text(commit)
    code_version.cache_clear()
    assert code_version(tmp_path / "main") == {"commit": commit, "branch": None}
    assert code_version(tmp_path) == {"commit": None, "branch": None}

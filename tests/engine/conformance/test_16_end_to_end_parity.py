"""16. End to end: over the same documents and responses the aggregates are lmms-eval's own, within 1e-9.

``golden/end_to_end`` holds what lmms-eval 0.7.3 itself was shown, answered, scored and aggregated over made documents
of the real columns; ``scripts/score_parity --record`` writes it. Here this engine runs over the same documents with the
recorded responses: its own benchmarks, and where lmms-eval's files are at hand its real task definitions too.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.lmms_eval_files import PACKAGE, needs_lmms_eval
from tests.support.parity.comparison import MEANT, compare, reason, same
from tests.support.parity.documents import BY_NAME, TASKS, write_all
from tests.support.parity.golden import read_golden
from tests.support.parity.ours import AnsweringBackend, run
from tests.support.parity.reader import render
from tests.support.parity.recorded import Recorded

GOLDEN = read_golden()
SHIPPED = [task.name for task in TASKS if task.shipped]
COMPATIBILITY = Path(__file__).resolve().parents[3] / "docs" / "compatibility.md"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    write_all(folder)
    return folder


class Replay:
    """Answers what the model answered when lmms-eval showed it the same."""

    def __init__(self, recorded: Recorded) -> None:
        self._responses: dict[str, list[str]] = {}
        for result in recorded.values():
            for sample in result["samples"]:
                self._responses[self._key(sample["rendered"])] = list(sample["responses"])

    def answer(self, messages: Sequence[Mapping[str, Any]]) -> str:
        return self._responses[self._key(render(messages))].pop(0)

    def _key(self, rendered: Any) -> str:
        # lmms-eval hands recordings on as films; docs/compatibility.md has a line about it.
        return json.dumps(rendered).replace('["video", ', '["audio", ')


@pytest.fixture(scope="module")
def shipped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """What this package's own benchmarks make of the recorded responses."""
    backend = AnsweringBackend(Replay(GOLDEN).answer)
    return run(data, tmp_path_factory.mktemp("shipped"), SHIPPED, backend=backend, definitions=None)


def aggregates(results: Mapping[str, Any]) -> dict[str, float]:
    """The values of a task's row, without its errors and what is none of lmms-eval's scores."""
    return {
        key: value
        for key, value in results.items()
        if isinstance(value, int | float) and "_stderr" not in key and not key.startswith("submission,")
    }


_OTHER_SCALE = {
    # Theirs divides by 1,000 whatever was run, and its yes ratio is of the right answers.
    ("ocrbench", "ocrbench_accuracy,none"): lambda theirs: theirs * 1000 / 15,
    ("pope", "pope_yes_ratio,none"): None,
}
"""Metrics that docs/compatibility.md defines otherwise for our benchmarks: theirs in our terms, if it can be said."""


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_benchmarks_have_lmms_evals_aggregates(shipped: Recorded, name: str) -> None:
    theirs, ours = aggregates(GOLDEN[name]["results"]), aggregates(shipped[name]["results"])
    assert theirs.keys() <= ours.keys()
    for key, value in theirs.items():
        convert = _OTHER_SCALE.get((name, key), lambda value: value)
        if convert is not None:
            assert ours[key] == pytest.approx(convert(value), rel=0, abs=1e-9), key
    assert len({sample["doc_id"] for sample in shipped[name]["samples"]}) == len(GOLDEN[name]["samples"]) > 0


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_benchmarks_show_the_model_what_lmms_eval_does(shipped: Recorded, name: str) -> None:
    theirs = {sample["doc_id"]: sample["rendered"] for sample in GOLDEN[name]["samples"]}
    ours = {sample["doc_id"]: sample["rendered"] for sample in shipped[name]["samples"]}
    if name.startswith("librispeech"):
        theirs = json.loads(json.dumps(list(theirs.items())).replace('"video"', '"audio"'))
        theirs = dict(theirs)
    assert ours == theirs


@needs_lmms_eval
def test_real_task_definitions_score_as_in_lmms_eval(data: Path, tmp_path: Path) -> None:
    backend = AnsweringBackend(Replay(GOLDEN).answer)
    ours = run(data, tmp_path, list(BY_NAME), backend=backend, definitions=PACKAGE / "tasks")
    assert [str(difference) for difference in compare(GOLDEN, ours) if reason(difference) is None] == []


@pytest.mark.parametrize("part", ["rendered", "responses", "filtered", "scores", "results"])
def test_a_change_in_any_part_is_noticed(part: str) -> None:
    changed = copy.deepcopy(GOLDEN)
    if part == "results":
        changed["chartqa"]["results"]["relaxed_overall,none"] += 1e-8
    elif part == "scores":
        changed["docvqa_val"]["samples"][3]["scores"]["anls"] += 1e-8
    else:
        changed["pope"]["samples"][0][part][0] = "other"
    (difference,) = compare(GOLDEN, changed)
    assert reason(difference) is None


def test_every_difference_that_is_meant_is_listed_for_users() -> None:
    rows = [line.removeprefix("| ") for line in COMPATIBILITY.read_text().splitlines()]
    for meant in MEANT:
        assert any(row.startswith(meant.row) for row in rows), meant.row


def test_the_recorded_scores_are_neither_all_right_nor_all_wrong() -> None:
    """Else equality would prove nothing."""
    for task in TASKS:
        values = aggregates(GOLDEN[task.name]["results"])
        assert any(not same(value, round(value)) or value > 1 for value in values.values()), task.name

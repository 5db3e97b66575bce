"""Where two recorded results differ, and which of the differences are meant."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.support.parity.recorded import Recorded, Sample

TOLERANCE = 1e-9


class Difference(NamedTuple):
    """One value that is not the same on both sides."""

    task: str
    what: str
    """Part of a sample or key of the results, e.g. ``prompt`` or ``anls_stderr,none``."""
    where: str
    """The sample and filter, or empty."""
    theirs: Any
    ours: Any

    def __str__(self) -> str:
        return f"{self.task} {self.where}: {self.what}: lmms-eval {self.theirs!r}, here {self.ours!r}"[:600]


@dataclass(frozen=True, slots=True)
class Meant:
    """A difference that docs/compatibility.md lists."""

    row: str
    """The beginning of the line in that document."""
    applies: Callable[[Difference], bool]


def compare(theirs: Recorded, ours: Recorded) -> Iterator[Difference]:
    """Every difference between the results of the same tasks; numbers are equal within :data:`TOLERANCE`."""
    for task in sorted({*theirs, *ours}):
        if task not in theirs or task not in ours:
            yield Difference(task, "task", "", task in theirs, task in ours)
            continue
        yield from _compare_samples(task, theirs[task]["samples"], ours[task]["samples"])
        mine, other = ours[task]["results"], theirs[task]["results"]
        for key in sorted({*mine, *other}):
            if not same(other.get(key), mine.get(key)):
                yield Difference(task, key, "", other.get(key), mine.get(key))


def _compare_samples(task: str, theirs: Sequence[Sample], ours: Sequence[Sample]) -> Iterator[Difference]:
    others = {(sample["doc_id"], sample["filter"]): sample for sample in theirs}
    mines = {(sample["doc_id"], sample["filter"]): sample for sample in ours}
    if others.keys() != mines.keys():
        yield Difference(
            task, "samples", "", sorted(others.keys() - mines.keys()), sorted(mines.keys() - others.keys())
        )
    for key in sorted(others.keys() & mines.keys()):
        other, mine = others[key], mines[key]
        where = f"document {key[0]}, filter {key[1]}"
        for part in ("prompt", "rendered", "responses", "filtered", "target"):
            left, right = _form(part, other[part]), _form(part, mine[part])  # type: ignore[literal-required]
            if left != right:
                yield Difference(task, part, where, left, right)
        for metric in sorted({*other["scores"], *mine["scores"]}):
            left, right = other["scores"].get(metric), mine["scores"].get(metric)
            if not same(left, right):
                yield Difference(task, f"score {metric}", where, left, right)


def _form(part: str, value: Any) -> Any:
    """lmms-eval keeps filtered responses by request, so several are a list in a list."""
    if part == "filtered" and len(value) == 1 and isinstance(value[0], list):
        return value[0]
    return value


def same(left: Any, right: Any) -> bool:
    """Equal as JSON, numbers within the tolerance; a flag is a number too."""
    if isinstance(left, int | float) and isinstance(right, int | float):
        return math.isclose(left, right, rel_tol=0, abs_tol=TOLERANCE)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def _is_error(difference: Difference) -> bool:
    return "_stderr" in difference.what and not difference.where


MEANT: tuple[Meant, ...] = (
    Meant("several responses per document", lambda it: it.theirs is None and bool(_STABILITY.search(it.what))),
    Meant("metric named in `metric_list` without aggregation", lambda it: it.theirs == [] and it.ours is None),
    Meant("`_stderr_clt`, `_stderr_clustered`", lambda it: it.ours == "N/A" and bool(_CLASSIC.search(it.what))),
    Meant("`_stderr` of a task's own aggregation", lambda it: _is_error(it) and it.theirs == "N/A"),
    Meant("standard error of a group", lambda it: _is_error(it) and it.task in _GROUPS),
    Meant("results file, further keys", lambda it: it.what == "samples" and it.theirs is None and it.task in _GROUPS),
    Meant("`alias` in the results", lambda it: it.what == "alias" and str(it.theirs).lstrip(" -") == it.ours),
    Meant("`input` of a sample", lambda it: it.what == "prompt" and it.task == "mmmu_val"),
    Meant(
        "audio documents without `type`",
        lambda it: it.what == "rendered" and json.dumps(it.theirs).replace('"video"', '"audio"') == json.dumps(it.ours),
    ),
)
"""What docs/compatibility.md says of lmms-eval's own tasks, as far as it can show here."""

_STABILITY = re.compile("_(expected_accuracy|consensus_accuracy|internal_variance|consistency_rate|pass@)")
_CLASSIC = re.compile("_stderr_(clt|clustered),")
_GROUPS = ("mvp_mini", "jmmmu", "culture_agnostic", "culture_specific")


def reason(difference: Difference) -> Meant | None:
    """What the difference is meant for; None where it is a defect."""
    return next((meant for meant in MEANT if meant.applies(difference)), None)

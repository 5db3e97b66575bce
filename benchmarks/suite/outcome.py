"""What a job found, so that two systems are compared only where they have done the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.suite.processes import Failed

LEAST_AGREEMENT = 0.95
"""Of the answers. Both round to bfloat16, in batches of other sizes and in other releases of transformers: once in a
while the likeliest of two tokens is another one."""


@dataclass
class Outcome:
    """Of one job."""

    answers: dict[tuple[str, int], str] = field(default_factory=dict)
    """By task and document."""
    scores: dict[str, float] = field(default_factory=dict)
    """``exact_match`` by task."""


def of_files(results: Path, samples: Iterable[Path]) -> Outcome:
    """From lmms-eval's files of results and samples."""
    outcome = Outcome()
    for task, scores in json.loads(results.read_text())["results"].items():
        outcome.scores[task] = scores["exact_match,none"]
    for path in samples:
        task = path.stem.partition("_samples_")[2]
        for line in path.read_text().splitlines():
            record = json.loads(line)
            answer = record["filtered_resps"]
            outcome.answers[task, record["doc_id"]] = answer if isinstance(answer, str) else answer[0]
    return outcome


def in_folder(folder: Path) -> Outcome:
    """Of the one evaluation whose files lie below ``folder``."""
    (results,) = folder.rglob("*_results.json")
    return of_files(results, folder.rglob("*_samples_*.jsonl"))


def same_prompts(kind: str, ours: Iterable[int], loop: int) -> None:
    """Raises Failed: one of our jobs read another number of prompt tokens than the loop did."""
    for read in ours:
        if read != loop:
            raise Failed(f"{kind}: our prompts have {read} tokens and the loop's {loop}")


def agree(ours: Outcome, theirs: Outcome, expected: int) -> str:
    """A note that says how many answers are the same. Raises Failed: the two have not done the same, or not all of the
    ``expected`` samples."""
    if ours.answers.keys() != theirs.answers.keys() or len(ours.answers) != expected:
        counts = f"ours answered {len(ours.answers)} samples, lmms-eval {len(theirs.answers)}, expected are {expected}"
        raise Failed(f"other documents: {counts}")
    same = sum(answer == theirs.answers[key] for key, answer in ours.answers.items())
    note = f"{same} of {expected} answers are the same in both systems"
    if same < LEAST_AGREEMENT * expected:
        raise Failed(f"only {note}")
    off = max(abs(ours.scores[task] - theirs.scores[task]) for task in ours.scores | theirs.scores)
    if off > 1 - LEAST_AGREEMENT or (same == expected and off > 1e-9):
        raise Failed(f"{note}, but the scores are {ours.scores} and {theirs.scores}")
    return note

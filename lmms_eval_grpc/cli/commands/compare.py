"""``compare``: is one of two runs better, or is there not enough evidence to say?"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output, Table
from lmms_eval_grpc.cli.stored_runs import find_run
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.cli.words import format_number
from lmms_eval_grpc.engine.record.comparison import MetricComparison, Verdict, compare_runs

HEADINGS = ("task", "metric", "documents", "first", "second", "first - second", "p", "MDE", "verdict")
VERDICTS: dict[Verdict, str] = {
    "first": "first is better",
    "second": "second is better",
    "not_enough_evidence": "not enough evidence",
}


def run(args: argparse.Namespace, output: Output) -> int:
    """A row per metric that both runs have. Exit code 0 whatever the verdicts."""
    if not 0 < args.alpha < 1:
        raise UsageError(f"--alpha must be between 0 and 1, but is {args.alpha}")
    first, second = find_run(Path(args.first)), find_run(Path(args.second))
    compared = compare_runs(
        first.samples(),
        second.samples(),
        metrics=args.metric or None,
        higher_is_better={**second.higher_is_better(), **first.higher_is_better()},
        score_key=args.score_key,
        alpha=args.alpha,
    )
    if output.as_json:
        document = {"first": str(first.path), "second": str(second.path), "alpha": args.alpha}
        output.document({**document, "comparisons": [_describe(one) for one in compared]})
        return ExitCode.OK
    output.table(Table(HEADINGS, [_make_row(one) for one in compared], right_aligned=frozenset(HEADINGS[2:8])))
    for one in compared:
        left_out = one.pairs.only_first + one.pairs.only_second
        if left_out:
            output.line(
                f"{one.pairs.task} {one.pairs.metric}: {left_out} documents that only one run scored are left out"
            )
    output.line(
        f"p: {', '.join(sorted({one.method for one in compared if one.method})) or 'no test'}, by Holm's correction "
        f"over {len(compared)} comparisons; MDE: minimum detectable effect, with a power of 80 %"
    )
    return ExitCode.OK


def _make_row(one: MetricComparison) -> tuple[str, ...]:
    pairs = one.pairs
    metric = pairs.metric if pairs.filter in ("", "none") else f"{pairs.metric} ({pairs.filter})"
    difference = _number(one.difference)
    if one.t is not None:
        difference += f" [{format_number(one.t.interval.lower)}, {format_number(one.t.interval.upper)}]"
    return (
        pairs.task,
        metric,
        str(len(pairs.doc_ids)),
        _number(one.mean_first),
        _number(one.mean_second),
        difference,
        format_number(one.adjusted_p_value),
        _number(one.minimum_detectable_effect),
        VERDICTS[one.verdict],
    )


def _number(value: float | None) -> str:
    return "" if value is None else format_number(value)


def _describe(one: MetricComparison) -> dict[str, Any]:
    """Everything but the scores themselves, which are in the samples files."""
    described = dataclasses.asdict(one)
    pairs = described.pop("pairs")
    kept = {key: pairs[key] for key in ("task", "metric", "filter", "only_first", "only_second")}
    return {**kept, "documents": len(one.pairs.doc_ids), **described}

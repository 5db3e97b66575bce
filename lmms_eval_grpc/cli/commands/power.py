"""``power``: how many documents show a difference, and which difference so many documents show."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_eval_grpc.cli.eval_settings import Problems, expand_folders, read_limit, resolve_values
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output, Table
from lmms_eval_grpc.cli.stored_runs import find_run
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.cli.words import format_number
from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.check import check_config
from lmms_eval_grpc.engine.record.comparison import design_of, pair_samples
from lmms_eval_grpc.engine.stats.power import DEFAULT_DEVIATION, Design, PowerPlan, plan
from lmms_eval_grpc.engine.tasks.index import TaskIndex

HEADINGS = ("of", "std a", "std b", "correlation", "effect", "needs", "documents", "power", "MDE")

Named = tuple[str, PowerPlan]
DESIGN_FLAGS = ("effect_size", "alpha", "power", "correlation", "std_a", "std_b")


def run(args: argparse.Namespace, output: Output) -> int:
    """A row per design: of the flags, of each metric in one run's samples, or of each that two runs share."""
    given = {name: value for name in DESIGN_FLAGS if (value := getattr(args, name)) is not None}
    values = resolve_values(given, {"tasks": args.tasks, "include_path": args.include_path})
    if len(args.runs) > 2:
        raise UsageError("name one run, or the two that are to be compared")
    if args.runs and args.tasks:
        raise UsageError("name tasks or runs, not both")
    try:
        if args.runs:
            return _show(_plans_of_runs(args.runs, values, given), output)
        if args.tasks:
            return show_tasks(values, output)
        return _show([("", plan(values["effect_size"], _design(values), args.documents))], output)
    except ValueError as error:
        raise UsageError(_by_flags(error)) from error


def show_tasks(values: Mapping[str, Any], output: Output) -> ExitCode:
    """A row for each task that ``values``, those of ``eval``, name; their data are opened, no model is needed.

    Raises UsageError for a wrong value, and EvaluationError as loading tasks does.
    """
    try:
        design = _design(values)
        if not values["tasks"]:
            return _show([("", plan(values["effect_size"], design))], output)
        problems: Problems = []
        includes = [Path(path) for path in values["include_path"] or ()]
        config = EvaluationConfig(
            model=values["model"],
            tasks=tuple(expand_folders(values["tasks"], includes, problems)),
            include_paths=tuple(includes),
            limit=read_limit(values["limit"], problems),
            offset=values["offset"],
            trust_remote_code=values["trust_remote_code"],
        )
        index = TaskIndex.open(config.include_paths)
        found = [(problem.field, problem.description) for problem in check_config(config, index)]
        if problems := problems + [problem for problem in found if not problem[0].startswith("model")]:
            raise UsageError("the tasks cannot be analysed", problems)
        # Late: opening data takes seconds of imports.
        from lmms_eval_grpc.engine.tasks.load import load

        tasks = load(config, index).tasks
        counts = [(task.name, len(task.doc_ids(config.limit, config.offset))) for task in tasks]
        return _show([(name, plan(values["effect_size"], design, count)) for name, count in counts], output)
    except ValueError as error:
        raise UsageError(_by_flags(error)) from error


def _by_flags(error: ValueError) -> str:
    """The message about a parameter's value under the name that its flag has."""
    name, _, text = str(error).partition(" ")
    flags = {"effect": "effect_size", "deviation_first": "std_a", "deviation_second": "std_b"}
    name = flags.get(name, name)
    return f"--{name} {text}" if name in DESIGN_FLAGS else str(error)


def _design(values: Mapping[str, Any]) -> Design:
    first, second = values["std_a"], values["std_b"]
    return Design(
        DEFAULT_DEVIATION if first is None else first,
        (DEFAULT_DEVIATION if first is None else first) if second is None else second,
        values["correlation"],
        values["alpha"],
        values["power"],
    )


def _plans_of_runs(paths: list[str], values: Mapping[str, Any], given: Mapping[str, Any]) -> list[Named]:
    """Deviations, and with two runs the correlation, are those of the samples, except where a flag says another."""
    runs = [find_run(Path(path)).samples() for path in paths]
    plans: list[Named] = []
    # A run paired with itself has every metric and document of it.
    for pairs in pair_samples(runs[0], runs[-1]):
        if len(pairs.doc_ids) < 2:
            continue
        name = f"{pairs.task} {pairs.metric}" + ("" if pairs.filter in ("", "none") else f" ({pairs.filter})")
        if len(runs) == 2:
            design = design_of(pairs, values["alpha"], values["power"])
        else:
            deviation = statistics.stdev(pairs.first)
            design = Design(deviation, deviation, values["correlation"], values["alpha"], values["power"])
        told = {"deviation_first": "std_a", "deviation_second": "std_b", "correlation": "correlation"}
        changes = {field: given[flag] for field, flag in told.items() if flag in given}
        plans.append((name, plan(values["effect_size"], dataclasses.replace(design, **changes), len(pairs.doc_ids))))
    if not plans:
        raise UsageError("no metric has two scored documents, which a standard deviation needs")
    return plans


def _show(plans: list[Named], output: Output) -> ExitCode:
    if output.as_json:
        output.document({"plans": [{"of": name, **dataclasses.asdict(one)} for name, one in plans]})
        return ExitCode.OK
    output.table(Table(HEADINGS, [_make_row(name, one) for name, one in plans], right_aligned=frozenset(HEADINGS[1:])))
    design = plans[0][1].design
    output.line(
        f"for a paired comparison with alpha {design.alpha:g}; needs: documents that show the effect with a power of "
        f"{design.power:g}; MDE: minimum detectable effect of the documents that there are"
    )
    return ExitCode.OK


def _make_row(name: str, one: PowerPlan) -> tuple[str, ...]:
    design = one.design
    numbers = (design.deviation_first, design.deviation_second, design.correlation, one.effect)
    return (
        name,
        *(format_number(number) for number in numbers),
        *("" if count is None else str(count) for count in (one.required_documents, one.documents)),
        *(
            "" if value is None else format_number(value)
            for value in (one.achieved_power, one.minimum_detectable_effect)
        ),
    )

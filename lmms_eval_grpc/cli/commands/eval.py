"""``eval``: evaluates in this process, without a server, by lmms-eval's flags."""

from __future__ import annotations

import argparse
import dataclasses
import json
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval_grpc.cli.commands import power, tasks
from lmms_eval_grpc.cli.config_file import FileRun, exported, read_runs
from lmms_eval_grpc.cli.console import reporting, show_results, start_log
from lmms_eval_grpc.cli.eval_settings import EvalSettings, make_settings, notes, resolve_values
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.failures import attempt
from lmms_eval_grpc.cli.flags_eval import DEFAULTS
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.run_folder import run_folder
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.cli.wandb_log import log_results, require_wandb
from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationError, EvaluationOutcome
from lmms_eval_grpc.engine.tasks.task import DocumentError, Task

LISTINGS = {"list": "list", "list_groups": "groups", "list_tags": "tags", "list_subtasks": "subtasks"}
"""What ``--tasks`` may say instead of tasks, with the words that ``tasks`` has for the same."""


def run(args: argparse.Namespace, output: Output) -> int:
    """One run, or those of the ``--config`` file one after the other.

    All are checked before the first begins. One that fails does not keep the others from running; the exit code is then
    that of the first that failed.
    """
    given = {name: value for name in DEFAULTS if (value := getattr(args, name)) is not None}
    runs = read_runs(Path(args.config)) if args.config else [FileRun({})]
    several = len(runs) > 1
    problems: list[tuple[str, str]] = []
    samples_to_come: list[Path] = []
    for number, one in enumerate(runs):
        try:
            with exported(one.variables, lambda _: None):
                values = resolve_values(one.values, given)
                _check(values, samples_to_come)
                if values["output_path"] and (values["log_samples"] or values["predict_only"]):
                    samples_to_come.append(_absolute(values["output_path"]))
        except UsageError as error:
            if not several:
                raise
            found = error.problems or (("", str(error)),)
            problems += [(f"[{number}].{field}".rstrip("."), text) for field, text in found]
    if problems:
        raise UsageError(f"--config {args.config}: not every run is valid", problems)
    codes = []
    for number, one in enumerate(runs):
        if several:
            output.remark(f"run {number + 1} of {len(runs)}")
        with exported(one.variables, output.remark):
            codes.append(_run_one(resolve_values(one.values, given), output))
        if codes[-1] == ExitCode.INTERRUPTED:
            return ExitCode.INTERRUPTED
    return next((code for code in codes if code), ExitCode.OK)


def _check(values: Mapping[str, Any], samples_to_come: Sequence[Path]) -> None:
    """Raises UsageError for whatever is wrong and can be seen without a model or data.

    A baseline in one of the folders ``samples_to_come``, where earlier runs will write, need not be there yet.
    """
    if _listing(values) is not None or values["power_analysis"]:
        return
    baseline = values["baseline"]
    place = _absolute(baseline) if baseline else None
    if place and not place.exists() and any(folder in (place, *place.parents) for folder in samples_to_come):
        values = {**values, "baseline": None}
    make_settings(values)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _run_one(values: Mapping[str, Any], output: Output) -> int:
    """Does what one set of flags asks for; failures are told here, so that other runs can follow."""
    start_log(values["verbosity"])
    # Without an output folder the answers are gone.
    again = "run the same command again to go on" if values["output_path"] else "run the command again"
    try:
        return attempt(lambda: _do(values, output), output, values["verbosity"], again=again)
    except EvaluationCancelled:
        kept = f"; {again}" if values["output_path"] else ""
        output.remark(f"interrupted{kept}")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # nobody reads any more, of no run
        raise
    except Exception:
        traceback.print_exc()
        return ExitCode.BUG


def _do(values: Mapping[str, Any], output: Output) -> int:
    listing = _listing(values)
    if listing is not None:
        return tasks.list_local(listing, [], values["include_path"] or [], output)
    if values["power_analysis"]:
        return power.show_tasks(values, output)
    return _evaluate(make_settings(values), output)


def _listing(values: Mapping[str, Any]) -> str | None:
    names = values["tasks"] or []
    return LISTINGS.get(names[0]) if len(names) == 1 else None


def _evaluate(settings: EvalSettings, output: Output) -> ExitCode:
    if settings.wandb_args:
        require_wandb()
    for note in notes(settings.values):
        output.remark(f"note: {note}")
    with run_folder(settings.config) as run_dir:
        outcome = _run_engine(settings, run_dir, output)
        _show(settings, outcome, output)
        if settings.wandb_args:
            samples = outcome.samples_paths if settings.values["wandb_log_samples"] else ()
            log_results(outcome.results_document, samples, settings.wandb_args)
    return ExitCode.OK


def _run_engine(settings: EvalSettings, run_dir: Path, output: Output) -> EvaluationOutcome:
    with reporting(output) as reporter:
        # Seconds of imports: whoever waits has seen by now that something happens.
        import torch

        from lmms_eval_grpc.engine.run.evaluate import evaluate
        from lmms_eval_grpc.engine.tasks.load import load

        device = settings.values["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
        config = dataclasses.replace(settings.config, device=device)
        if not settings.values["check_integrity"]:
            return evaluate(config, run_dir, reporter)
        loaded = load(config, settings.index)
        _check_documents(loaded.tasks)
        return evaluate(config, run_dir, reporter, tasks=loaded.tasks, groups=loaded.groups)


def _show(settings: EvalSettings, outcome: EvaluationOutcome, output: Output) -> None:
    show_results(outcome, output)
    if output.as_json:
        return
    if settings.values["show_config"]:
        output.line(json.dumps(outcome.results_document["configs"], indent=2, ensure_ascii=False))
    if settings.config.output_dir is not None:
        output.line(f"results: {outcome.results_path}")
        for path in outcome.samples_paths:
            output.line(f"samples: {path}")


def _check_documents(loaded: tuple[Task, ...]) -> None:
    """``--check_integrity``: raises EvaluationError INTEGRITY with the documents that cannot be asked or scored."""
    broken = []
    for task in loaded:
        for doc_id in task.doc_ids(task.evaluation.limit, task.evaluation.offset):
            try:
                task.build_request(doc_id)
                task.target(doc_id)
            except DocumentError as error:
                broken.append(error.message)
    if broken:
        more = f"; and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise EvaluationError("INTEGRITY", f"{len(broken)} documents are broken: {'; '.join(broken[:3])}{more}")

"""``score``: scores stored responses anew, without a model."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_eval_grpc.cli.console import show_results, start_log
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.stored_runs import StoredRun, find_run
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.client.arguments import parse_arg_string
from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.check import check_config
from lmms_eval_grpc.engine.record.stored import StoredSample
from lmms_eval_grpc.engine.tasks.index import TaskIndex


def run(args: argparse.Namespace, output: Output) -> int:
    """The tables of the new scores; results and samples are written where an output folder is named."""
    start_log(args.verbosity)
    runs = [find_run(Path(path)) for path in args.runs]
    stored = [(one, one.samples()) for one in runs]
    _refuse_overlap(stored)
    config = _make_config(args, runs, [sample.task for _, samples in stored for sample in samples])
    # Late: this brings what evaluates, which takes seconds.
    from lmms_eval_grpc.engine.record.rescore import rescore

    with contextlib.ExitStack() as stack:
        folder = args.output_path or stack.enter_context(tempfile.TemporaryDirectory(prefix="lmms-eval-grpc-"))
        outcome = rescore(config, [path for one in runs for path in one.samples_paths], Path(folder))
    show_results(outcome, output)
    if args.output_path and not output.as_json:
        output.line(f"results: {outcome.results_path}")
    return ExitCode.OK


def _refuse_overlap(stored: list[tuple[StoredRun, list[StoredSample]]]) -> None:
    """Raises UsageError where two runs answered one document; parts of one run are scored together, two runs not."""
    owners: dict[tuple[str, int], StoredRun] = {}
    for run, samples in stored:
        for sample in samples:
            owner = owners.setdefault((sample.task, sample.doc_id), run)
            if owner is not run:
                where = f"task {sample.task}, document {sample.doc_id}"
                raise UsageError(f"{owner.path} and {run.path} both answered {where}; score each run by itself")


def _make_config(args: argparse.Namespace, runs: list[StoredRun], answered: list[str]) -> EvaluationConfig:
    """Tasks that are not named are those of the samples; the model is the one that answered, if that is known.

    What the run gave its scorers, and cut from the answers before, is done again unless a flag says otherwise.
    """
    document = next((one.results.document for one in runs if one.results is not None), {})
    tasks = args.tasks or list(dict.fromkeys(answered))
    asked = _asked_for(document)
    model_args = args.model_args or str((document.get("config") or {}).get("model_args") or "")
    try:
        parsed = parse_arg_string(model_args) if isinstance(model_args, str) else model_args
    except ValueError as error:
        raise UsageError(f"--model_args: {error}") from error
    config = EvaluationConfig(
        model=args.model or str(document.get("model_source") or "unknown"),
        tasks=tuple(tasks),
        model_args=parsed,
        include_paths=tuple(map(Path, args.include_path or ())),
        reasoning_tags=asked.get("reasoning_tags") if args.reasoning_tags is None else args.reasoning_tags,
        trust_remote_code=bool(args.trust_remote_code),
        process_with_media=bool(args.process_with_media or asked.get("process_with_media")),
        timezone=args.timezone or "UTC",
        output_dir=Path(args.output_path) if args.output_path else None,
    )
    # The model is only named, so whether it is known, and its checkpoint still there, does not matter.
    problems = [
        (problem.field, problem.description)
        for problem in check_config(config, TaskIndex.open(config.include_paths))
        if not problem.field.startswith("model")
    ]
    if problems:
        raise UsageError("the samples cannot be scored so", problems)
    return config


def _asked_for(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of the run with these results; empty where they do not say."""
    asked = (document.get("config") or {}).get("resolved_cli_args")
    return asked if isinstance(asked, Mapping) else {}

"""``samples``: what the model was asked, what it answered, how that was scored."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.words import format_number, shorten

WIDTH = 500
"""Characters of a prompt or an answer that people are shown; JSON has all of them."""


def run(args: argparse.Namespace, output: Output) -> int:
    """One block per sample; as JSON one line per sample, with the keys of ``EvalClient.iter_samples``."""
    with connect(args) as client:
        # A stream goes on trying while a server is away; a call that fails tells at once that there is none.
        client.get(args.job_id)
        found = client.iter_samples(args.job_id, args.task or None, args.follow)
        if args.errors:
            found = (sample for sample in found if sample["outcome"] != "ok")
        for sample in itertools.islice(found, args.count):
            if output.as_json:
                output.record(sample)
            else:
                _show(sample, output)
    return ExitCode.OK


def _show(sample: dict[str, Any], output: Output) -> None:
    scores = "  ".join(f"{name} {_format_score(value)}" for name, value in sample["scores"].items())
    which = "" if sample["filter"] in ("", "none") else f" ({sample['filter']})"
    outcome = sample["outcome"].replace("_", " ")
    output.line(f"{sample['task']} #{sample['doc_id']}{which}  {outcome}  {scores}".rstrip())
    output.line(f"  prompt:   {shorten(sample['prompt'], WIDTH)}")
    output.line(f"  target:   {shorten(sample['target'], WIDTH)}")
    for response in sample["responses"]:
        output.line(f"  response: {shorten(response, WIDTH)}")
    if sample["filtered_responses"] != sample["responses"]:
        for response in sample["filtered_responses"]:
            output.line(f"  filtered: {shorten(response, WIDTH)}")
    if sample["error"]:
        output.line(f"  error:    {shorten(sample['error'], WIDTH)}")


def _format_score(value: Any) -> str:
    if value is None:
        return "undefined"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return shorten(str(value), 60)
    return format_number(value)

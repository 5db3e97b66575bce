"""Flags of the commands on stored runs: ``score``, ``compare`` and ``power``."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli import arguments, flags_eval, flags_evaluation
from lmms_eval_grpc.cli.flags_evaluation import spell

RUN_HELP = "a samples file, a results file, or a folder of such; of a folder the newest run counts"


def add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help=RUN_HELP)
    group = parser.add_argument_group("what to score")
    flags_evaluation.add_subject(
        group, required=False, place="", model_default="as the results say", tasks_default="those of the samples"
    )
    flags_evaluation.add_include_path(group, place="")
    flags_evaluation.add_reasoning_tags(group, default="as in the run")
    flags_evaluation.add_trust(group)
    flags_evaluation.add_media(group)
    flags_eval.add_output(group)
    flags_eval.add_verbosity(group, "INFO")


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="FIRST", help=RUN_HELP)
    parser.add_argument("second", metavar="SECOND", help="the other run, over the same documents")
    group = parser.add_argument_group("how to compare")
    group.add_argument("--metric", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    group.add_argument(
        "--alpha", type=float, default=0.05, metavar="P", help="level of significance of a verdict (default: 0.05)"
    )
    group.add_argument(
        *spell("score_key"),
        default="score",
        metavar="KEY",
        help="the number in scores that are mappings (default: score)",
    )
    flags_eval.add_verbosity(group, "INFO")


def add_power(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="take standard deviations from one run's samples, or from two runs' pairs",
    )
    group = parser.add_argument_group("the comparison that is planned")
    flags_eval.add_design(group)
    group.add_argument("--documents", type=arguments.parse_count, metavar="N", help="how many there are")
    group.add_argument(
        "--tasks", action="extend", type=arguments.parse_names, metavar="A,B,…", help="as many as these tasks have"
    )
    flags_evaluation.add_include_path(group, place="")
    flags_eval.add_verbosity(group, "INFO")

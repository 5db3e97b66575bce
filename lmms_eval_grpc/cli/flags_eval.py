"""The flags of ``eval``: every one that lmms-eval has, under its names, with its defaults.

The names of the values (``DEFAULTS``) are also the keys that a ``--config`` file may have.
"""

from __future__ import annotations

import argparse
from typing import Any

from lmms_eval_grpc.cli import arguments, flags_evaluation
from lmms_eval_grpc.cli.flags_evaluation import spell

DEFAULTS: dict[str, Any] = {
    "config": "",
    "model": "hf",
    "tasks": None,
    "model_args": "",
    "launcher_args": None,
    "num_fewshot": None,
    "batch_size": "1",
    "max_batch_size": None,
    "device": None,
    "num_gpus": 1,
    "output_path": None,
    "limit": None,
    "offset": 0,
    "use_cache": None,
    "cache_requests": None,
    "check_integrity": False,
    "write_out": False,
    "log_samples": False,
    "wandb_log_samples": False,
    "swanlab_log_samples": False,
    "log_samples_suffix": "model_outputs",
    "system_instruction": None,
    "apply_chat_template": False,
    "fewshot_as_multiturn": False,
    "show_config": False,
    "include_path": None,
    "gen_kwargs": "",
    "reasoning_tags": '[["<think>","</think>"],["<analysis>","</analysis>"]]',
    "verbosity": "INFO",
    "wandb_args": "",
    "swanlab_args": "",
    "timezone": "UTC",
    "hf_hub_log_args": "",
    "predict_only": False,
    "seed": "0,1234,1234,1234",
    "trust_remote_code": False,
    "process_with_media": False,
    "agentic_trace_mode": "basic",
    "force_simple": False,
    "tui": False,
    "repeats": 1,
    "baseline": None,
    "max_tokens": None,
    "max_error_share": 0.05,
    "merge": "never",
    "power_analysis": False,
    "effect_size": 0.03,
    "alpha": 0.05,
    "power": 0.8,
    "correlation": 0.5,
    "std_a": None,
    "std_b": None,
}
"""lmms-eval's, but for ``timezone``, which there is Asia/Singapore, and those that it has not: ``num_gpus``,
``max_error_share`` and ``merge``."""

VERBOSITIES = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declares them all. A flag that is not given stays None; ``DEFAULTS`` says what that means."""
    subject = parser.add_argument_group("what to evaluate")
    flags_evaluation.add_subject(subject, required=False, place="")
    subject.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file with these flags as keys (a list of such mappings: several runs); flags that are given win",
    )
    samples = parser.add_argument_group("which samples, and how")
    flags_evaluation.add_samples(samples, log_samples="no", place="")
    flags_evaluation.add_media(samples)
    _add_switch(samples, "check_integrity", "build every document's request before the model is loaded")
    prompt = parser.add_argument_group("prompts and generation")
    flags_evaluation.add_prompt(prompt)
    running = parser.add_argument_group("where and how to run")
    flags_evaluation.add_running(running, batch_size="1", place="")
    running.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, … (default: cuda where there is one)")
    _add_records(parser.add_argument_group("what is written and shown"))
    analysis = parser.add_argument_group("power analysis, instead of an evaluation")
    _add_switch(analysis, "power_analysis", "say what the tasks' documents can show; no model is loaded")
    add_design(analysis)
    _add_others(parser.add_argument_group("for lmms-eval's command lines"))


def _add_switch(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    group.add_argument(*spell(name), action="store_true", default=None, help=text)


def add_output(group: argparse._ArgumentGroup) -> None:
    """Where results go, and how their files are dated."""
    group.add_argument(
        *spell("output_path"), metavar="DIR", help="folder for results files (default: nothing is written)"
    )
    flags_evaluation.add_timezone(group)


def _add_records(group: argparse._ArgumentGroup) -> None:
    add_output(group)
    group.add_argument(
        *spell("log_samples_suffix"), metavar="TEXT", help="for tasks that read it (default: model_outputs)"
    )
    _add_switch(group, "show_config", "print the tasks' full configurations too")
    add_verbosity(group)
    group.add_argument(
        *spell("wandb_args"),
        type=arguments.parse_mapping,
        metavar="K=V,…",
        help="log the results to Weights & Biases: arguments of wandb.init, such as project=evals,name=run-7",
    )
    _add_switch(group, "wandb_log_samples", "log the samples there too, a table per task")


def add_verbosity(group: argparse._ArgumentGroup, default: str | None = None) -> None:
    """How much is logged; of every command that is done in this process."""
    group.add_argument(
        "--verbosity",
        type=str.upper,
        choices=VERBOSITIES,
        default=default,
        help="least serious messages to show; DEBUG shows tracebacks (default: INFO)",
    )


def add_design(group: argparse._ArgumentGroup) -> None:
    """The parameters of a power analysis."""
    group.add_argument(
        *spell("effect_size"), type=float, metavar="D", help="true difference to be found (default: 0.03)"
    )
    group.add_argument("--alpha", type=float, metavar="P", help="level of significance (default: 0.05)")
    group.add_argument("--power", type=float, metavar="P", help="chance to find the difference (default: 0.8)")
    group.add_argument(
        "--correlation", type=float, metavar="R", help="of the two models' scores over documents (default: 0.5)"
    )
    for name in ("std_a", "std_b"):
        group.add_argument(
            *spell(name), type=float, metavar="S", help="standard deviation of a model's scores (default: 0.5)"
        )


def _add_others(group: argparse._ArgumentGroup) -> None:
    """Flags that have no effect here and say so, or that are refused with what to do instead."""
    group.add_argument(
        *spell("cache_requests"),
        choices=("true", "refresh", "delete"),
        help="no effect: requests are cheap to build, so none are cached",
    )
    _add_switch(group, "write_out", "no effect (deprecated): use --log_samples, which keeps every prompt")
    for name in ("launcher_args", "swanlab_args", "hf_hub_log_args"):
        group.add_argument(*spell(name), metavar="K=V,…", help="refused, with what to do instead")
    for name in ("swanlab_log_samples", "tui"):
        _add_switch(group, name, "refused, with what to do instead")

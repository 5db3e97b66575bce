"""The flags that ``submit`` and ``eval`` share: evaluation parameters, spelled as on lmms-eval's command line.

A flag that is not given stays None, so that what was given can be told from what was not, also where it equals the
default. ``place`` says on which machine a path is, and is empty where that is this one.
"""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli import arguments


def spell(name: str, *aliases: str, short: str | None = None) -> list[str]:
    """A flag's spellings: ``--model_args`` and ``--model-args``."""
    options = [f"-{short}"] if short else []
    for word in (name, *aliases):
        options.append(f"--{word}")
        if "_" in word:
            options.append(f"--{word.replace('_', '-')}")
    return options


def add_subject(
    group: argparse._ArgumentGroup, *, required: bool, place: str, model_default: str = "hf", tasks_default: str = ""
) -> None:
    """Model and tasks, with their defaults in words."""
    default = "" if required else f" (default: {model_default})"
    group.add_argument(
        "--model", required=required, metavar="NAME", help=f"model backend, as listed by `models`{default}"
    )
    group.add_argument(
        *spell("model_args"),
        type=arguments.parse_mapping,
        metavar="K=V,…",
        help="arguments of the backend, such as pretrained=/ckpt/step-100,dtype=bfloat16; or a JSON object",
    )
    group.add_argument(
        "--tasks",
        required=required,
        action="extend",
        type=arguments.parse_names,
        metavar="A,B,…",
        help=f"tasks, groups, tags or patterns, as listed by `tasks`, or YAML files{place}; may be repeated"
        + (f" (default: {tasks_default})" if tasks_default else ""),
    )


def add_samples(group: argparse._ArgumentGroup, *, log_samples: str, place: str) -> None:
    """Which documents, and how often. ``log_samples`` is that flag's default in words."""
    group.add_argument(
        "--limit",
        type=arguments.parse_number,
        metavar="N",
        help="documents of each task: a number (2.7 counts as 2), or a share below 1; -1 for all (default: all)",
    )
    group.add_argument("--offset", type=int, metavar="N", help="documents to skip at the start of each task")
    group.add_argument(*spell("num_fewshot"), type=int, metavar="N", help="examples per prompt (default: the task's)")
    group.add_argument(
        *spell("repeats", "num_samples", short="n"), type=int, metavar="N", help="generations per document (default: 1)"
    )
    group.add_argument(
        "--seed",
        metavar="N[,N…]",
        help="one seed for all, or python,numpy,torch,fewshot (default: 0,1234,1234,1234)",
    )
    group.add_argument(
        *spell("log_samples"),
        action=argparse.BooleanOptionalAction,
        help=f"keep per-sample records (default: {log_samples})",
    )
    group.add_argument(
        *spell("predict_only", short="x"), action="store_true", default=None, help="generate only, compute no metrics"
    )
    group.add_argument(
        "--baseline",
        metavar="RUN",
        help=f"compare with an earlier run: a samples file or a folder of results{place}, hf://user/repo[/file], "
        "or a preset",
    )


def add_media(group: argparse._ArgumentGroup) -> None:
    """What scorers get."""
    group.add_argument(
        *spell("process_with_media"),
        action="store_true",
        default=None,
        help="scorers get documents with their images, audio and video",
    )


def add_timezone(group: argparse._ArgumentGroup) -> None:
    """How results files are dated."""
    group.add_argument(
        "--timezone", metavar="ZONE", help="zone of the dates in file names, such as Asia/Singapore (default: UTC)"
    )


def add_prompt(group: argparse._ArgumentGroup) -> None:
    """What the model gets, and how it answers."""
    group.add_argument(
        *spell("gen_kwargs"),
        type=arguments.parse_mapping,
        metavar="K=V,…",
        help="overrides of the tasks' generation arguments, such as max_new_tokens=64; or a JSON object",
    )
    group.add_argument(*spell("system_instruction"), metavar="TEXT", help="system message before every prompt")
    group.add_argument(
        *spell("apply_chat_template"),
        action="store_true",
        default=None,
        help="for compatibility; chat backends always apply theirs",
    )
    group.add_argument(
        *spell("fewshot_as_multiturn"),
        action="store_true",
        default=None,
        help="examples become turns of the conversation",
    )
    add_reasoning_tags(group)
    group.add_argument(*spell("max_tokens"), type=int, metavar="N", help="budget of generated tokens for the whole job")
    group.add_argument(
        *spell("max_error_share"),
        type=float,
        metavar="SHARE",
        help="largest share of a task's samples that may fail without failing the job (default: 0.05)",
    )
    group.add_argument(
        *spell("agentic_trace_mode"), choices=("basic", "full"), help="what agentic tasks record (default: basic)"
    )


def add_reasoning_tags(group: argparse._ArgumentGroup, *, default: str = "<think>, <analysis>") -> None:
    """What is no part of an answer, with the default in words."""
    group.add_argument(
        *spell("reasoning_tags"),
        metavar="JSON",
        help=f'spans cut from answers before scoring: [["<think>", "</think>"]], or none (default: {default})',
    )


def add_running(group: argparse._ArgumentGroup, *, batch_size: str, place: str) -> None:
    """How the model is run, and where files are. ``batch_size`` is that flag's default in words."""
    group.add_argument(*spell("batch_size"), metavar="N|auto", help=f"samples per forward pass (default: {batch_size})")
    group.add_argument(*spell("max_batch_size"), type=int, metavar="N", help="ceiling of the automatic batch size")
    group.add_argument(*spell("use_cache"), metavar="DIR", help=f"folder{place} of a response cache")
    group.add_argument(*spell("num_gpus"), type=int, metavar="N", help="devices to run on together (default: 1)")
    group.add_argument(
        "--merge",
        choices=("never", "auto"),
        help="auto: a checkpoint that is sharded is merged first, where the run keeps its answers (default: never)",
    )
    add_include_path(group, place=place)
    group.add_argument(
        *spell("force_simple"), action="store_true", default=None, help="prefer the simple (not chat) implementation"
    )
    add_trust(group)


def add_include_path(group: argparse._ArgumentGroup, *, place: str) -> None:
    """Folders of tasks."""
    group.add_argument(
        *spell("include_path"),
        action="extend",
        type=arguments.parse_names,
        metavar="DIR",
        help=f"folder{place} with more task YAML files; may be repeated",
    )


def add_trust(group: argparse._ArgumentGroup) -> None:
    """Code from elsewhere."""
    group.add_argument(
        *spell("trust_remote_code"), action="store_true", default=None, help="let the checkpoint's own code run"
    )

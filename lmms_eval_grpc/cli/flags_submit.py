"""The flags of ``submit``: every evaluation parameter, spelled as on lmms-eval's command line."""

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


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declares them all. A flag that is not given stays None, and leaves its default to the server."""
    _add_required(parser.add_argument_group("what to evaluate"))
    _add_samples(parser.add_argument_group("which samples, and how"))
    _add_prompt(parser.add_argument_group("prompts and generation"))
    _add_running(parser.add_argument_group("where and how to run"))
    _add_job(parser.add_argument_group("the job"))


def _add_required(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", required=True, metavar="NAME", help="model backend, as listed by `models`")
    group.add_argument(
        *spell("model_args"),
        type=arguments.parse_mapping,
        metavar="K=V,…",
        help="arguments of the backend, such as pretrained=/ckpt/step-100,dtype=bfloat16; or a JSON object",
    )
    group.add_argument(
        "--tasks",
        required=True,
        action="extend",
        type=arguments.parse_names,
        metavar="A,B,…",
        help="tasks, groups, tags or patterns, as listed by `tasks`, or YAML files on the server; may be repeated",
    )


def _add_samples(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--limit",
        type=arguments.parse_number,
        metavar="N",
        help="documents of each task: a number, or a share below 1; -1 for all (default: all)",
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
        *spell("log_samples"), action=argparse.BooleanOptionalAction, help="keep per-sample records (default: yes)"
    )
    group.add_argument(
        *spell("predict_only", short="x"), action="store_true", default=None, help="generate only, compute no metrics"
    )
    group.add_argument("--baseline", metavar="FILE", help="compare with this samples file (on the server) or preset")


def _add_prompt(group: argparse._ArgumentGroup) -> None:
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
    group.add_argument(
        *spell("reasoning_tags"),
        metavar="JSON",
        help='spans cut from answers before scoring: [["<think>", "</think>"]], or none (default: <think>, <analysis>)',
    )
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


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        *spell("batch_size"),
        metavar="N|auto",
        help="samples per forward pass (default: auto)",
    )
    group.add_argument(*spell("max_batch_size"), type=int, metavar="N", help="ceiling of the automatic batch size")
    group.add_argument("--device", metavar="DEVICE", help="cuda:1 for that one, cuda or cpu for any (default: any)")
    group.add_argument(*spell("num_gpus"), type=int, metavar="N", help="devices that the job takes (default: 1)")
    group.add_argument(
        *spell("output_path", "output_dir"),
        dest="output_dir",
        metavar="DIR",
        help="folder on the server for results files (default: the job's own)",
    )
    group.add_argument(*spell("use_cache"), metavar="DIR", help="folder on the server of a response cache")
    group.add_argument(
        *spell("include_path"),
        action="extend",
        type=arguments.parse_names,
        metavar="DIR",
        help="folder on the server with more task YAML files; may be repeated",
    )
    group.add_argument(
        *spell("force_simple"), action="store_true", default=None, help="prefer the simple (not chat) implementation"
    )
    group.add_argument(
        *spell("trust_remote_code"), action="store_true", default=None, help="let the checkpoint's own code run"
    )
    group.add_argument(
        *spell("run_timeout"),
        type=arguments.parse_duration,
        metavar="TIME",
        help="longest run: 90, 15m, 2h (default: none)",
    )


def _add_job(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--label",
        action="append",
        type=arguments.parse_label,
        default=[],
        metavar="KEY=VALUE",
        help="a label of your own; may be repeated",
    )
    group.add_argument("--priority", type=int, default=0, metavar="N", help="higher runs first (default: 0)")
    group.add_argument(
        *spell("request_id"),
        metavar="UUID",
        help="idempotency key: submitting again with the same one returns the first job (default: a new one)",
    )
    group.add_argument("--watch", action="store_true", help="follow the job to its end; the exit code is its outcome")
    group.add_argument(*spell("validate_only"), action="store_true", help="only check the request; queue nothing")

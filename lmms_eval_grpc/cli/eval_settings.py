"""From the values of ``eval``'s flags to what the engine is to run, with everything that is wrong with them at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval_grpc.cli.flags_eval import DEFAULTS
from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.client.arguments import parse_arg_string
from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.check import check_config
from lmms_eval_grpc.engine.tasks.index import TaskIndex, is_task_file
from lmms_eval_grpc.engine.tasks.index_files import read_task_file
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError, YamlReader

_REFUSED = {
    "launcher_args": "judges are not started here; start the judge's server yourself and name its address in "
    "OPENAI_API_URL",
    "swanlab_args": "only Weights & Biases is supported; use --wandb_args, or log the results file yourself",
    "swanlab_log_samples": "only Weights & Biases is supported; use --wandb_args with --wandb_log_samples",
    "hf_hub_log_args": "nothing is uploaded; use --output_path and upload that folder with `hf upload`",
    "tui": "there is no such interface; on a terminal `eval` and `watch` show live bars",
}
"""Flags of lmms-eval that are not offered, with what to do instead."""

_NO_EFFECT = {
    "cache_requests": "--cache_requests has no effect: requests are built as they are needed, and none are cached",
    "write_out": "--write_out is deprecated and has no effect: use --log_samples, which keeps every prompt",
}

Problems = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """One run of ``eval``."""

    config: EvaluationConfig
    index: TaskIndex
    wandb_args: Mapping[str, Any]
    """Of ``wandb.init``; empty: nothing is logged there."""
    values: Mapping[str, Any]
    """Of all flags, by the names of ``DEFAULTS``."""


def resolve_values(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, overridden by each layer in turn."""
    values = dict(DEFAULTS)
    for layer in layers:
        values |= layer
    return values


def make_settings(values: Mapping[str, Any]) -> EvalSettings:
    """What to run. Raises UsageError with every problem that can be seen without a model or data."""
    problems: Problems = list(_check_flags(values))
    includes = [Path(path) for path in values["include_path"] or ()]
    tasks = tuple(expand_folders(values["tasks"] or (), includes, problems))
    config = EvaluationConfig(
        model=values["model"],
        tasks=tasks,
        model_args=_read_mapping(values, "model_args", problems),
        include_paths=tuple(includes),
        num_fewshot=values["num_fewshot"],
        batch_size=_read_batch_size(values["batch_size"], problems),
        max_batch_size=values["max_batch_size"],
        device=values["device"] or "cpu",
        num_gpus=values["num_gpus"],
        limit=read_limit(values["limit"], problems),
        offset=values["offset"],
        gen_kwargs=_read_mapping(values, "gen_kwargs", problems),
        log_samples=values["log_samples"] or values["predict_only"],
        predict_only=values["predict_only"],
        output_dir=Path(values["output_path"]) if values["output_path"] else None,
        seed=_read_seed(values["seed"], problems),
        repeats=values["repeats"],
        system_instruction=values["system_instruction"],
        apply_chat_template=values["apply_chat_template"],
        fewshot_as_multiturn=values["fewshot_as_multiturn"],
        reasoning_tags=values["reasoning_tags"],
        force_simple=values["force_simple"],
        trust_remote_code=values["trust_remote_code"],
        use_cache=Path(values["use_cache"]) if values["use_cache"] else None,
        agentic_trace_mode=values["agentic_trace_mode"],
        baseline=values["baseline"],
        max_tokens=values["max_tokens"],
        max_error_share=values["max_error_share"],
        merge=values["merge"] == "auto",
        process_with_media=values["process_with_media"],
        log_samples_suffix=values["log_samples_suffix"],
        timezone=values["timezone"],
        resolved_cli_args=dict(values),
    )
    wandb_args = _read_mapping(values, "wandb_args", problems)
    index = TaskIndex.open(config.include_paths, override=config.override_tasks)
    seen = {field for field, _ in problems}
    found = [(problem.field, problem.description) for problem in check_config(config, index)]
    problems += [(field, text) for field, text in found if field.partition(".")[0].partition("[")[0] not in seen]
    if problems:
        raise UsageError("the evaluation is not valid", problems)
    return EvalSettings(config, index, wandb_args, values)


def check_texts(values: Mapping[str, Any]) -> Problems:
    """What is wrong with values that flags take as any text; :func:`make_settings` says the same, and more."""
    problems: Problems = []
    for name in ("model_args", "gen_kwargs", "wandb_args"):
        _read_mapping(values, name, problems)
    _read_batch_size(values["batch_size"], problems)
    read_limit(values["limit"], problems)
    _read_seed(values["seed"], problems)
    return problems


def notes(values: Mapping[str, Any]) -> list[str]:
    """What to say about flags that are taken and do nothing."""
    return [text for name, text in _NO_EFFECT.items() if values[name]]


def _check_flags(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, remedy in _REFUSED.items():
        if values[name]:
            yield name, f"is not supported: {remedy}"
    if values["fewshot_as_multiturn"] and not values["apply_chat_template"]:
        yield "fewshot_as_multiturn", "needs --apply_chat_template"
    if values["fewshot_as_multiturn"] and not values["num_fewshot"]:
        yield "fewshot_as_multiturn", "needs --num_fewshot of at least 1"
    for name in ("log_samples", "predict_only"):
        if values[name] and not values["output_path"]:
            yield name, "needs --output_path, the folder for the samples"
    if values["wandb_log_samples"] and not values["wandb_args"]:
        yield "wandb_log_samples", "needs --wandb_args, which says where to log"
    if values["wandb_log_samples"] and not (values["log_samples"] or values["predict_only"]):
        yield "wandb_log_samples", "needs --log_samples, which keeps the samples"


def expand_folders(names: Sequence[str], includes: list[Path], problems: Problems) -> Iterator[str]:
    """Names of tasks as they are; of a folder the task files directly in it. Its groups may name its other tasks."""
    reader = YamlReader()
    for name in names:
        folder = Path(name).expanduser()
        if is_task_file(name) or not folder.is_dir():
            yield name
            continue
        includes.append(folder)
        found = False
        for path in sorted(folder.glob("*.yaml")):
            try:
                kind = read_task_file(reader, path).kind
            except TaskFileError as error:
                problems.append(("tasks", str(error)))
                continue
            if kind:
                found = True
                yield str(path)
        if not found:
            problems.append(("tasks", f"the folder {name!r} has no task files (*.yaml) directly in it"))


def _read_mapping(values: Mapping[str, Any], name: str, problems: Problems) -> dict[str, Any]:
    value = values[name]
    if isinstance(value, Mapping):
        return dict(value)
    try:
        return parse_arg_string(value)
    except ValueError as error:
        problems.append((name, f"{value!r} is not valid: {error}"))
        return {}


def _read_batch_size(text: str, problems: Problems) -> int | None:
    if text.strip().lower() == "auto":
        return None
    if not text.strip().isdecimal():
        problems.append(("batch_size", f"must be a whole number of at least 1, or auto, but is {text!r}"))
        return None
    return int(text)


def read_limit(limit: float | None, problems: Problems) -> int | float | None:
    """lmms-eval's rule: below 1 a share, from 1 on a count, 1.0 and 2.7 included (1 and 2 documents); -1 is all."""
    if limit is None or limit == -1:
        return None
    if not math.isfinite(limit) or limit < 0:
        problems.append(("limit", f"must be a count, a share in (0, 1), or -1 for all documents, but is {limit}"))
        return None
    return math.floor(limit) if limit >= 1 else limit


def _read_seed(text: str, problems: Problems) -> tuple[int | None, int | None, int | None, int | None]:
    """One seed for all, or python, numpy, torch, few-shot, completed from the defaults; ``None`` leaves one alone."""
    default: tuple[int | None, ...] = (0, 1234, 1234, 1234)
    try:
        seeds = [None if part.strip() == "None" else int(part) for part in text.split(",")]
        if len(seeds) > len(default):
            raise ValueError("there are more than four")
    except ValueError as error:
        problems.append(
            ("seed", f"{text!r} is not valid: {error}; give one seed for all, or python,numpy,torch,fewshot")
        )
        seeds = []
    python, numpy, torch, fewshot = seeds * 4 if len(seeds) == 1 else (*seeds, *default[len(seeds) :])
    return python, numpy, torch, fewshot

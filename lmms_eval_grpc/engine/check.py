"""Checking an evaluation before it is accepted: every mistake that can be seen without a model or data, at once.

Light and quick: runs inside the server while a client waits for its answer. Nothing is loaded or executed.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import COMPAT, EvaluationConfig, EvaluationError, Problem
from lmms_eval_grpc.engine.checkpoints.companions import find_companions
from lmms_eval_grpc.engine.checkpoints.layouts import find_unmerged, is_loadable
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.checkpoint_url import checkpoint_arguments, is_url, url_problem
from lmms_eval_grpc.engine.models.generation_arguments import RENAMED_KEYS
from lmms_eval_grpc.engine.packages import LMMS_EVAL_PREFIX
from lmms_eval_grpc.engine.record.baseline_source import BaselineNameError, parse_baseline
from lmms_eval_grpc.engine.run.response_cache import cache_folder
from lmms_eval_grpc.engine.scoring.reasoning import parse_tags
from lmms_eval_grpc.engine.tasks.index import TOO_MANY, TaskIndex, is_task_file
from lmms_eval_grpc.engine.tasks.resolve import describe_unknown

MAX_BATCH_SIZE = 65536
MAX_REPEATS = 1024
MAX_BOOTSTRAP_ITERS = 1_000_000

_MAX_SEED = 2**32 - 1
"""The largest that numpy takes."""
_SEED_NAMES = ("python", "numpy", "torch", "few-shot")
_TIMEZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_PATH_STARTS = ("/", "./", "../", "~")


def check_config(config: EvaluationConfig, index: TaskIndex) -> list[Problem]:
    """Everything that is wrong with ``config``; empty when it may be tried. Takes milliseconds.

    ``index`` must have been scanned with the include paths of ``config``. A field's problem names the field's path, as
    ``tasks[1]`` or ``model_args.pretrained``, and says what to do. Passing does not promise that the tasks load: their
    code has not run.
    """
    return [
        *_check_model(config),
        *_check_include_paths(config, index),
        *_check_tasks(config, index),
        *_check_sampling(config),
        *_check_batches(config),
        *_check_devices(config),
        *_check_seeds(config),
        *_check_baseline(config),
        *_check_timezone(config),
        *_check_cache(config),
        *_check_unsupported(config),
    ]


def _check_model(config: EvaluationConfig) -> Iterator[Problem]:
    if not config.model:
        yield Problem("model", "model is empty; name a model backend")
        return
    entry = registry.resolve(config.model)
    if entry is None:
        close = registry.closest(config.model)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "list the known ones"
        yield Problem("model", f"unknown model {config.model!r}; {hint}")
        return
    yield from entry.check_args(config.model_args)
    yield from entry.check_generation(config.gen_kwargs)
    if config.force_simple and not entry.also_simple:
        yield Problem(
            "force_simple",
            f"model {config.model!r} takes messages and has no simple implementation; unset force_simple, or name a "
            f"backend of an installed lmms-eval that has one, as {LMMS_EVAL_PREFIX}qwen2_vl",
        )
    for name in checkpoint_arguments(config):
        field, checkpoint = f"model_args.{name}", config.model_args[name]
        if is_url(checkpoint):
            if description := url_problem(checkpoint):
                yield Problem(field, description)
        elif "pretrained" in entry.arguments:
            yield from _check_checkpoint(field, checkpoint, config.merge)


def _check_checkpoint(field: str, pretrained: Any, merge: bool) -> Iterator[Problem]:
    if not (isinstance(pretrained, str) and pretrained.startswith(_PATH_STARTS)):
        return
    if "~" not in pretrained and is_loadable(pretrained):  # as nearly always: with as few looks at the disk as can be
        return
    problems = tuple(_check_folder(field, pretrained, "the checkpoint"))
    yield from problems
    if problems:
        return
    folder = Path(pretrained).expanduser()
    if is_loadable(folder):
        return
    try:
        sharded = find_unmerged(folder)
        if sharded is None:
            if not (folder / "config.json").exists():
                yield Problem(
                    field,
                    f"{pretrained!r} has no config.json, so it is no checkpoint that from_pretrained loads; give the "
                    "folder that save_pretrained wrote",
                )
        elif merge:
            find_companions(sharded, None)
        else:
            yield Problem(
                field,
                f"{pretrained!r} is a sharded checkpoint ({sharded.format}), which from_pretrained does not load. "
                f"Merge it first, with EvalClient.merge_checkpoint({pretrained!r}) or `lmms-eval-grpc merge "
                f"{shlex.quote(pretrained)}`, and evaluate what that makes; or let the evaluation do so, with "
                "merge='auto' (--merge auto)",
            )
    except EvaluationError as error:
        yield Problem(field, error.message)


def _check_include_paths(config: EvaluationConfig, index: TaskIndex) -> Iterator[Problem]:
    overfull = {problem.path for problem in index.problems() if problem.reason == TOO_MANY}
    for position, path in enumerate(config.include_paths):
        field = f"include_paths[{position}]"
        problems = tuple(_check_folder(field, str(path), "the folder of tasks"))
        yield from problems
        if not problems and path.expanduser().absolute() in overfull:
            yield Problem(field, f"{str(path)!r} {TOO_MANY}")


def _check_folder(field: str, path: str, what: str) -> Iterator[Problem]:
    if os.path.isdir(os.path.expanduser(path)):  # noqa: PTH111, PTH112 - half of the time that a path object takes
        return
    try:
        folder = Path(path).expanduser()
        if folder.is_dir():
            return
        reason = "is not a folder" if folder.exists() else "does not exist"
    except OSError as error:
        reason = f"cannot be looked at ({error.strerror})"
    except RuntimeError:
        reason = "names a user who does not exist"
    yield Problem(
        field, f"{path!r} {reason} on the machine that evaluates; give {what} by a path that is readable there"
    )


def _check_tasks(config: EvaluationConfig, index: TaskIndex) -> Iterator[Problem]:
    if not config.tasks:
        yield Problem("tasks", "tasks is empty; name at least one task")
    entry = registry.resolve(config.model)
    may_draw = entry is None or entry.visual_cot
    for position, name in enumerate(config.tasks):
        description = _task_problem(name, index, may_draw)
        if description:
            yield Problem(f"tasks[{position}]", description)


def _task_problem(name: str, index: TaskIndex, may_draw: bool) -> str:
    """What is wrong with one entry of ``tasks``; empty when nothing is. ``may_draw``: the model can, or is unknown."""
    if not name:
        return "is empty; name a task"
    if is_task_file(name):
        return "" if _is_file(name) else f"there is no file {name!r} on the machine that evaluates"
    matches = index.matches(name)
    if not matches:
        return describe_unknown(name, index)
    for match in matches:
        if not index.expand(match):
            return f"{match!r} has no tasks that are known"
        for leaf in index.expand(match):
            task = index.get(leaf)
            if task is not None and task.output_type == "generate_visual_cot" and not may_draw:
                return (
                    f"task {leaf!r} has output type 'generate_visual_cot', which needs a model that draws while it "
                    "thinks; choose such a model (visual_cot in its entry), or other tasks"
                )
    return ""


def _check_sampling(config: EvaluationConfig) -> Iterator[Problem]:
    limit = config.limit
    if limit is not None and limit != -1:
        if isinstance(limit, bool) or not math.isfinite(limit) or limit <= 0:
            yield Problem(
                "limit",
                f"limit must be a positive number of documents or a share in (0, 1), but is {limit}; unset it for all",
            )
        elif limit > 1 and limit != int(limit):
            yield Problem("limit", f"limit must be a whole number of documents or a share in (0, 1), but is {limit}")
    yield from _check_whole("offset", config.offset, 0, None)
    yield from _check_whole("repeats", config.repeats, 1, MAX_REPEATS)
    yield from _check_whole("bootstrap_iters", config.bootstrap_iters, 0, MAX_BOOTSTRAP_ITERS)
    if config.max_tokens is not None:
        yield from _check_whole("max_tokens", config.max_tokens, 1, None)
    share = config.max_error_share
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        yield Problem("max_error_share", f"max_error_share must be a share from 0 to 1, but is {share!r}")
    until = config.gen_kwargs.get("until")
    if until is not None and not _is_text_or_texts(until):
        yield Problem("gen_kwargs.until", f"until must be a string or a list of strings, but is {until!r}")
    temperature = config.gen_kwargs.get("temperature")
    if temperature is not None and (isinstance(temperature, bool) or not isinstance(temperature, int | float)):
        yield Problem("gen_kwargs.temperature", f"temperature must be a number, but is {temperature!r}")
    for name in ("max_new_tokens", *(other for other, own in RENAMED_KEYS.items() if own == "max_new_tokens")):
        if config.gen_kwargs.get(name) is not None:
            yield from _check_whole(f"gen_kwargs.{name}", config.gen_kwargs[name], 1, None, name)
    if config.reasoning_tags is not None:
        try:
            parse_tags(config.reasoning_tags)
        except ValueError as error:
            yield Problem("reasoning_tags", str(error))


def _check_batches(config: EvaluationConfig) -> Iterator[Problem]:
    if config.batch_size is not None:
        yield from _check_whole("batch_size", config.batch_size, 1, MAX_BATCH_SIZE)
    if config.max_batch_size is not None:
        yield from _check_whole("max_batch_size", config.max_batch_size, 1, MAX_BATCH_SIZE)


def _check_devices(config: EvaluationConfig) -> Iterator[Problem]:
    yield from _check_whole("num_gpus", config.num_gpus, 1, None)
    entry = registry.resolve(config.model)
    if entry is not None and entry.several_devices == "refused" and config.num_gpus != 1:
        yield Problem(
            "num_gpus",
            f"model {config.model!r} runs elsewhere and uses no device here, so num_gpus must be 1, not"
            f" {config.num_gpus}",
        )


def _check_seeds(config: EvaluationConfig) -> Iterator[Problem]:
    if len(config.seed) != len(_SEED_NAMES):
        yield Problem("seed", f"seed needs four values ({', '.join(_SEED_NAMES)}), but has {len(config.seed)}")
        return
    for position, (name, seed) in enumerate(zip(_SEED_NAMES, config.seed, strict=True)):
        if seed is not None:
            yield from _check_whole(f"seed[{position}]", seed, 0, _MAX_SEED, f"the {name} seed")


def _check_baseline(config: EvaluationConfig) -> Iterator[Problem]:
    if config.baseline is None:
        return
    if config.predict_only:
        yield Problem("baseline", "baseline compares scores, but predict_only makes none; unset one of the two")
        return
    try:
        parse_baseline(config.baseline)
    except BaselineNameError as error:
        yield Problem("baseline", str(error))


def _check_timezone(config: EvaluationConfig) -> Iterator[Problem]:
    try:
        # What is no name is not looked up: it is looked for among files, and then among modules.
        if not _TIMEZONE.fullmatch(config.timezone):
            raise ValueError
        zoneinfo.ZoneInfo(config.timezone)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        yield Problem(
            "timezone",
            f"{config.timezone!r} is no time zone that is known here; use UTC or a name such as Asia/Singapore "
            "(pip install tzdata brings them all)",
        )


def _check_cache(config: EvaluationConfig) -> Iterator[Problem]:
    """Whether the cache's folder is there and can be written to, or can be made. Makes nothing."""
    if config.use_cache is None:
        return
    folder = config.use_cache
    try:
        folder = cache_folder(folder)
        existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(parent))
        writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
        reason = "nothing may be written to" if existing.is_dir() else "there is a file"
    except (OSError, ValueError, RuntimeError) as error:
        existing, writable, reason = folder, False, f"{error} at"
    if not writable:
        yield Problem(
            "use_cache",
            f"no responses can be kept in {str(config.use_cache)!r}: {reason} {str(existing)!r}; give a folder, or a "
            "path that ends in .db for the folder it is in",
        )


def _check_unsupported(config: EvaluationConfig) -> Iterator[Problem]:
    """Settings that nothing reads yet: refused, so that nobody takes their absence for their effect."""
    if config.num_fewshot is not None and config.num_fewshot < 0:
        yield Problem("num_fewshot", f"num_fewshot must not be negative, but is {config.num_fewshot}")
    if config.fewshot_as_multiturn and config.num_fewshot == 0:
        yield Problem(
            "fewshot_as_multiturn", "fewshot_as_multiturn says how few-shot examples are given, but num_fewshot is 0"
        )
    for name in sorted(config.compat - COMPAT.keys()):
        yield Problem("compat", f"there is no behaviour {name!r} to keep; there are {', '.join(sorted(COMPAT))}")
    if config.agentic_trace_mode not in ("basic", "full"):
        yield Problem(
            "agentic_trace_mode", f"agentic_trace_mode must be basic or full, not {config.agentic_trace_mode!r}"
        )


def _check_whole(field: str, value: Any, least: int, most: int | None, name: str = "") -> Iterator[Problem]:
    in_range = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not in_range or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        yield Problem(field, f"{name or field} must be a whole number, {span}, but is {value!r}")


def _is_text_or_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(item, str) for item in value))


def _is_file(path: str) -> bool:
    try:
        return Path(path).expanduser().is_file()
    except (OSError, RuntimeError):  # longer than a file system takes; ``~user``, and there is no such user
        return False

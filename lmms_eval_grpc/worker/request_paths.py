"""What each text of a specification may name, and whether the rules allow it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.checkpoints.companions import find_companions
from lmms_eval_grpc.engine.checkpoints.layouts import find_shards
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.record.baseline_source import names_path
from lmms_eval_grpc.engine.tasks.index import is_task_file
from lmms_eval_grpc.jobs.spec import CheckpointKind, EvaluationSpec, JobSpec, MergeMode, MergeSpec
from lmms_eval_grpc.trackers.names import TrackerNameError, parse_tracker
from lmms_eval_grpc.worker.path_rules import Access, PathRules, leads_out, links_in, looks_like_path, strings

Found = Iterator[tuple[str, str]]
"""Fields, as in ``spec.output_dir``, and why they are refused."""


class Use(Enum):
    """What a text is used for."""

    NAME = "looked up among known names; never opened"
    TEXT = "goes to the model or is parsed; never opened"
    READ = "a folder or file that is read"
    WRITE = "a folder that is made and written to"
    TASKS = "a name, or the file of a task"
    BASELINE = "a name, an address on the hub, or a folder or file that is read"
    TRACKERS = "a name, or a folder that is written to"
    MODEL_ARGS = "values that may name a checkpoint or a file"
    GEN_KWARGS = "values for the model's generation; those that begin like a path are taken for one"


USES: Mapping[str, Use] = {
    "EvaluationSpec.model": Use.NAME,
    "EvaluationSpec.model_args": Use.MODEL_ARGS,
    "EvaluationSpec.tasks": Use.TASKS,
    "EvaluationSpec.device": Use.NAME,
    "EvaluationSpec.gen_kwargs": Use.GEN_KWARGS,
    "EvaluationSpec.output_dir": Use.WRITE,
    "EvaluationSpec.system_instruction": Use.TEXT,
    "EvaluationSpec.reasoning_tags": Use.TEXT,
    "EvaluationSpec.use_cache": Use.WRITE,
    "EvaluationSpec.agentic_trace_mode": Use.NAME,
    "EvaluationSpec.baseline": Use.BASELINE,
    "EvaluationSpec.include_path": Use.READ,
    "EvaluationSpec.track": Use.TRACKERS,
    "EvaluationSpec.timezone": Use.NAME,
    "EvaluationSpec.compat": Use.NAME,
    "MergeSpec.checkpoint_path": Use.READ,
    "MergeSpec.output_path": Use.WRITE,
    "MergeSpec.config_path": Use.READ,
}
"""Every field of a specification that holds text. A test holds it against the contract: a new field needs a line."""


def refused_paths(spec: JobSpec, rules: PathRules, *, in_use: bool = False) -> Found:
    """The fields of ``spec`` that name what the rules do not allow.

    Args:
        in_use: the paths are about to be used, by the process that asks.
    """
    kind = type(spec).__name__
    for name, use in USES.items():
        owner, _, field = name.partition(".")
        value = getattr(spec, field) if owner == kind else None
        if value:
            yield from _check(spec, f"spec.{field}", value, use, rules, in_use)
    if isinstance(spec, MergeSpec) and spec.checkpoint_path:
        ema = spec.checkpoint_kind is CheckpointKind.EMA
        if problem := _merge_problem(spec.checkpoint_path, spec.config_path, rules, ema=ema):
            yield "spec.checkpoint_path", problem


def _check(spec: JobSpec, field: str, value: Any, use: Use, rules: PathRules, in_use: bool) -> Found:
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _check(spec, f"{field}[{index}]", item, use, rules, in_use)
        return
    problem = ""
    match use:
        case Use.READ:
            problem = rules.path_problem(value, Access.READ)
        case Use.WRITE:
            problem = rules.path_problem(value, Access.WRITE)
        case Use.TASKS if is_task_file(value):
            problem = rules.path_problem(value, Access.READ)
        case Use.BASELINE if names_path(value):
            problem = rules.path_problem(value, Access.READ, results=True)
        case Use.TRACKERS:
            problem = _tracker_problem(value, rules)
        case Use.MODEL_ARGS:
            assert isinstance(spec, EvaluationSpec)
            yield from _check_model_args(spec, field, rules, in_use)
        case Use.GEN_KWARGS:
            for place, text in strings(value, field):
                if looks_like_path(text) and (problem := rules.path_problem(text, Access.READ)):
                    yield place, problem
            return
        case _:
            pass
    if problem:
        yield field, problem


def _tracker_problem(text: str, rules: PathRules) -> str:
    try:
        name = parse_tracker(text)
    except TrackerNameError:
        return ""  # which is told elsewhere
    return rules.path_problem(name.target, Access.WRITE) if name.kind == "tensorboard" else ""


def _check_model_args(spec: EvaluationSpec, field: str, rules: PathRules, in_use: bool) -> Found:
    entry = registry.resolve(spec.model)
    # Servers that a job starts itself read what requests to them name from this machine.
    is_here = entry is not None and "server_args" in entry.arguments
    for key, value in spec.model_args.items():
        names = "" if entry is None else entry.names(key)
        if names == "elsewhere" and not is_here:
            continue
        for place, text in strings(value, f"{field}.{key}"):
            if names == "checkpoint":
                problem = rules.checkpoint_problem(text, in_use=in_use)
                if not problem and spec.merge is MergeMode.AUTO and looks_like_path(text):
                    problem = _merge_problem(text, "", rules)
            elif names == "file":
                problem = rules.file_problem(text, in_use=in_use)
            else:
                problem = rules.checkpoint_problem(text, in_use=in_use) if looks_like_path(text) else ""
            if problem:
                yield place, problem


def _merge_problem(checkpoint: str, config: str, rules: PathRules, *, ema: bool = False) -> str:
    """Why what a merge would read and copy may not be read, where the paths themselves may: shards, configuration and
    the like that are links. A file of a folder above the checkpoint counts as the checkpoint's."""
    named = [path for path in (checkpoint, config) if path]
    if not rules.roots(Access.READ) or any(rules.path_problem(path, Access.READ) for path in named):
        return ""  # nothing is bounded, or it is told of the path
    try:
        shards = find_shards(Path(checkpoint).expanduser(), ema=ema)
    except (EvaluationError, OSError):
        return ""  # whoever merges it says why it cannot be
    if problem := rules.contents_problem(str(shards.shards), in_use=False):
        return problem
    try:
        companions = find_companions(shards, Path(config).expanduser() if config else None)
    except (EvaluationError, OSError):
        return ""
    for path in companions.files.values():
        looked_at = [] if not config and _is_above(path, shards.shards) else [str(path)]
        if any(rules.path_problem(one, Access.READ) for one in (*looked_at, *links_in(path))):
            return leads_out(config or checkpoint, path.name)
    return ""


def _is_above(path: Path, shards: Path) -> bool:
    """Whether a file that was looked for near ``shards`` is, links resolved, in one of the folders that it was taken to
    be in, and that is one of those above."""
    folder = next((folder for folder in (shards, *shards.parents) if path.is_relative_to(folder)), None)
    if folder is None:
        return False
    real, real_shards = Path(os.path.realpath(folder)), Path(os.path.realpath(shards))
    is_link = Path(os.path.realpath(path)) != real / path.relative_to(folder)
    return not is_link and real in (real_shards, *real_shards.parents)

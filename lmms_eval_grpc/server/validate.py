"""Whether a submission can be run here, told all at once and before anything is queued."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from lmms_eval_grpc.engine.check import check_config
from lmms_eval_grpc.engine.record.baseline_source import BaselineNameError, LocalSource, parse_baseline
from lmms_eval_grpc.executors.base import Executor
from lmms_eval_grpc.jobs.errors import InvalidRequest, Violation
from lmms_eval_grpc.jobs.results import JobErrorCode
from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobSpec, MergeSpec, RetryPolicy
from lmms_eval_grpc.scheduler.slots import unfit
from lmms_eval_grpc.server.caps import check_caps
from lmms_eval_grpc.server.catalog import TaskCatalog
from lmms_eval_grpc.server.convert_spec import (
    Request,
    Submission,
    read_evaluate_request,
    read_merge_request,
    submission_of,
)
from lmms_eval_grpc.server.folders import check_absolute, check_folder, expand, shown
from lmms_eval_grpc.server.merging import settle_checkpoint, settle_merge
from lmms_eval_grpc.server.offload import Offload
from lmms_eval_grpc.server.request_secrets import RequestDigests, check_placeholders, hide_secrets, split_secrets
from lmms_eval_grpc.server.requested_code import CodeRules, refused_code
from lmms_eval_grpc.server.tracking import check_trackers
from lmms_eval_grpc.worker.path_rules import PathRules
from lmms_eval_grpc.worker.request_paths import refused_paths
from lmms_eval_grpc.worker.translate import to_config

if TYPE_CHECKING:
    from lmms_eval_grpc.v1.evaluation_service_pb2 import EvaluateRequest, MergeCheckpointRequest
    from lmms_eval_grpc.v1.job_pb2 import EvaluationSpec as MessageSpec

CHECKS_AT_ONCE = 4
"""Submissions that are checked at the same time. A check looks at disks, which may be slow or gone."""
MAX_PRIORITY = 1000
MAX_BATCH_SIZE = 65_536
MAX_SPEC_BYTES = 256 * 1024
"""Bytes of a whole specification: every response with a job carries it, and every change of a job writes it again."""
MAX_RUN_TIMEOUT = 365 * 24 * 3600.0
MAX_ATTEMPTS = 10

RequestT = TypeVar("RequestT", bound=Request)

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SEEDS = ("python", "numpy", "torch", "fewshot")


class Validator:
    """Checks submissions against what this server has."""

    def __init__(
        self,
        catalog: TaskCatalog,
        executor: Executor,
        *,
        include_paths: Sequence[Path],
        path_rules: PathRules,
        code_rules: CodeRules,
        digests: RequestDigests,
        track: Sequence[str] = (),
    ) -> None:
        """``track``: trackers that every evaluation gets beside its own."""
        self._catalog = catalog
        self._executor = executor
        self._include_paths = tuple(include_paths)
        self._path_rules = path_rules
        self._code_rules = code_rules
        self._digests = digests
        self._track = tuple(track)
        self._offload = Offload(CHECKS_AT_ONCE)

    async def check(self, request: EvaluateRequest) -> Submission:
        """The submission that ``request`` makes. Works in a thread; touches folders, but reads no data and no weights.

        Raises:
            InvalidRequest: with everything that is wrong.
        """
        return await self._offload.run(self._check, request)

    def _check(self, request: EvaluateRequest) -> Submission:
        told = check_caps(request)
        readable = _without(request, told)
        spec, violations = read_evaluate_request(readable)
        violations = [*told, *violations, *_check_envelope(readable)]
        if request.HasField("spec"):
            violations += _check_entries(spec)
            violations += _check_ranges(spec)
            # First, because only the first problem of a field is told: whether a path that may not be named is there is
            # not for everybody to know.
            violations += self._forbidden(spec)
            misfit = unfit(spec, self._executor.devices, elastic=self._executor.elastic)
            violations += [] if misfit is None else [misfit]
            violations += check_folder(spec.output_dir, "spec.output_dir")
            violations += check_absolute(spec.use_cache, "spec.use_cache")
            violations += check_trackers(spec.track, "spec.track")
            violations += _check_baseline(spec.baseline)
            violations += check_placeholders(spec)
            violations += self._check_engine(spec, violations)
            violations += _check_size(request.spec, violations)
        if violations:
            raise InvalidRequest(hide_secrets(_distinct(violations), spec))
        settled = settle_checkpoint(spec)
        # The newest of its checkpoints may be elsewhere.
        if settled is not spec and (forbidden := self._forbidden(settled)):
            raise InvalidRequest(hide_secrets(forbidden, spec))
        spec = settled
        track = tuple(dict.fromkeys((*spec.track, *self._track)))
        if track != spec.track:
            spec = dataclasses.replace(spec, track=track)
        return submission_of(request, *split_secrets(spec), self._digests.of(request))

    def digest_of(self, request: Request) -> str:
        """See :meth:`RequestDigests.of`."""
        return self._digests.of(request)

    async def check_merge(self, request: MergeCheckpointRequest) -> Submission:
        """The submission that ``request`` makes, with the checkpoint and the place of the output settled.

        Works in a thread; looks at names of files only.

        Raises:
            InvalidRequest: with everything that is wrong.
        """
        return await self._offload.run(self._check_merge, request)

    def _check_merge(self, request: MergeCheckpointRequest) -> Submission:
        told = check_caps(request)
        readable = _without(request, told)
        spec, violations = read_merge_request(readable)
        violations = [*told, *violations, *_check_envelope(readable)]
        if request.HasField("spec"):
            misfit = unfit(spec, self._executor.devices, elastic=self._executor.elastic)
            violations += [] if misfit is None else [misfit]
            paths = [f"spec.{name}" for name in ("checkpoint_path", "output_path", "config_path")]
            wrong = [*self._forbidden(spec), *_check_merge_paths(spec, paths)]
            violations += wrong
            if spec.max_shard_bytes < 0:
                violations.append(Violation("spec.max_shard_bytes", f"{spec.max_shard_bytes} is negative"))
            if not wrong:
                spec, wrong = settle_merge(spec)
                # The newest of several checkpoints, and the place of an output that is not named, are known only now.
                violations += [*self._forbidden(spec), *wrong]
                violations += check_folder(spec.output_path, "spec.output_path")
        if violations:
            raise InvalidRequest(_distinct(violations))
        return submission_of(request, *split_secrets(spec), self._digests.of(request))

    def _forbidden(self, spec: JobSpec) -> list[Violation]:
        """What the server's operator does not allow."""
        found = [Violation(*problem) for problem in refused_paths(spec, self._path_rules)]
        return [*refused_code(spec, self._code_rules), *found] if isinstance(spec, EvaluationSpec) else found

    def _check_engine(self, spec: EvaluationSpec, told: Sequence[Violation]) -> list[Violation]:
        """What the engine finds wrong beside the fields that were told already."""
        if any(violation.field.startswith("spec.include_path") for violation in told):
            return []  # Which tasks there are is not known then.
        config = to_config(spec, include_paths=self._include_paths, device=spec.device or "cpu")
        more_paths = [expand(path).absolute() for path in spec.include_path]
        problems = check_config(config, self._catalog.index(more_paths, override=spec.override_tasks))
        if problems:
            # The index may be a moment old: a task file that was added just now must count.
            index = self._catalog.index(more_paths, override=spec.override_tasks, max_age=0)
            problems = check_config(config, index)
        found = []
        for problem in problems:
            field = _request_field(problem.field, len(self._include_paths))
            if field is not None and not any(_overlap(field, violation.field) for violation in told):
                description = self._catalog.without_folders(problem.description)
                for path, whole in zip(spec.include_path, more_paths, strict=True):
                    if path != str(whole):  # it is below a home, or the server's working folder: not a caller's to know
                        description = description.replace(str(whole), path)
                found.append(Violation(field, description))
        return found


def _request_field(field: str, own_include_paths: int) -> str | None:
    """The request's name of a field of the engine's configuration; None when it is not of the request's making."""
    match = re.fullmatch(r"(seed|include_paths)\[(\d+)\]", field)
    if match is None:
        return f"spec.{field}"
    position = int(match[2])
    if match[1] == "seed":
        return f"spec.seeds.{_SEEDS[position]}"
    return f"spec.include_path[{position - own_include_paths}]" if position >= own_include_paths else None


def _without(request: RequestT, told: Sequence[Violation]) -> RequestT:
    """``request``, or a copy of it without the fields that are told to be wrong as a whole: they may be too large to be
    looked at any further."""
    if not told:
        return request
    rest = type(request)()
    rest.MergeFrom(request)  # type: ignore[arg-type]
    for violation in told:
        parent, _, name = violation.field.rpartition(".")
        message: Message = rest.spec if parent == "spec" else rest
        if parent in ("", "spec") and name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    return rest


def _distinct(violations: Sequence[Violation]) -> list[Violation]:
    """Without what is told of a field, or of a part of one, that was told before."""
    kept: list[Violation] = []
    for violation in violations:
        if not violation.field or not any(_overlap(violation.field, other.field) for other in kept if other.field):
            kept.append(violation)
    return kept


def _overlap(one: str, other: str) -> bool:
    """Whether two fields are the same, or one is a part of the other."""
    return one == other or one.startswith((f"{other}.", f"{other}[")) or other.startswith((f"{one}.", f"{one}["))


def _check_envelope(request: Request) -> Iterator[Violation]:
    request_id = request.request_id.lower()
    if request_id and not _UUID.fullmatch(request_id):
        yield Violation("request_id", f"{shown(request_id)} is not a UUID; leave it empty or use a fresh UUID4")
    if abs(request.priority) > MAX_PRIORITY:
        yield Violation("priority", f"{request.priority} is not between -{MAX_PRIORITY} and {MAX_PRIORITY}")


def _check_entries(spec: EvaluationSpec) -> Iterator[Violation]:
    for name in ("tasks", "include_path", "compat"):
        for index, value in enumerate(getattr(spec, name)):
            if not value:
                yield Violation(f"spec.{name}[{index}]", "empty")


def _check_size(spec: MessageSpec, told: Sequence[Violation]) -> Iterator[Violation]:
    """Whether the whole is small enough, which is told only where every part is."""
    size = spec.ByteSize()
    if size > MAX_SPEC_BYTES and not told:
        remedy = "shorten its texts, or name a group or a pattern instead of many tasks"
        yield Violation("spec", f"{size} bytes in all; at most {MAX_SPEC_BYTES} are accepted; {remedy}")


def _check_ranges(spec: EvaluationSpec) -> Iterator[Violation]:
    """Bounds that the engine does not check, or of fields that it knows by other names."""
    if not spec.model:
        yield Violation("spec.model", "not set; name a backend, as ListModels lists them")
    if not spec.tasks:
        yield Violation("spec.tasks", "empty; name at least one task, as ListTasks lists them")
    if spec.batch_size is not None and not 1 <= spec.batch_size <= MAX_BATCH_SIZE:
        yield Violation("spec.batch_size.fixed", f"{spec.batch_size} is not between 1 and {MAX_BATCH_SIZE}")
    if spec.limit_count is not None and spec.limit_count < 1:
        yield Violation("spec.limit.count", f"{spec.limit_count} is less than 1; leave limit out for all documents")
    if spec.limit_fraction is not None and not 0 < spec.limit_fraction < 1:
        yield Violation(
            "spec.limit.fraction",
            f"{spec.limit_fraction} is not more than 0 and less than 1; use count for a number of documents",
        )
    if spec.num_gpus < 1:
        yield Violation("spec.num_gpus", f"{spec.num_gpus} is negative")
    if spec.run_timeout is not None and not 0 < spec.run_timeout <= MAX_RUN_TIMEOUT:
        yield Violation("spec.run_timeout", f"{spec.run_timeout} s is not more than 0 and at most a year")
    if spec.stall_timeout is not None and not 0 < spec.stall_timeout <= MAX_RUN_TIMEOUT:
        yield Violation("spec.stall_timeout", f"{spec.stall_timeout} s is not more than 0 and at most a year")
    if spec.retry_policy is not None:
        yield from _check_retries(spec.retry_policy)
    yield from _check_generation(spec.gen_kwargs)


def _check_retries(policy: RetryPolicy) -> Iterator[Violation]:
    if not 1 <= policy.max_attempts <= MAX_ATTEMPTS:
        yield Violation("spec.retry_policy.max_attempts", f"{policy.max_attempts} is not between 1 and {MAX_ATTEMPTS}")
    if JobErrorCode.INVALID in policy.retry_on:
        remedy = "is for jobs that cannot run as asked, which no further attempt mends; leave it out"
        yield Violation("spec.retry_policy.retry_on", f"JOB_ERROR_CODE_INVALID {remedy}")


def _check_generation(gen_kwargs: Mapping[str, Any]) -> Iterator[Violation]:
    """Types of the generation arguments that every backend knows; others are passed on as they are."""
    for key, value in gen_kwargs.items():
        rule = _GENERATION_RULES.get(key)
        if rule is not None and value is not None and not rule[0](value):
            yield Violation(f"spec.gen_kwargs.{key}", f"{shown(value)} is not {rule[1]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_GENERATION_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (_is_count, "a whole number of at least 1"),
    "num_beams": (_is_count, "a whole number of at least 1"),
    "temperature": (lambda value: _is_number(value) and value >= 0, "a number of at least 0"),
    "top_p": (lambda value: _is_number(value) and 0 < value <= 1, "a number above 0 and at most 1"),
    "do_sample": (lambda value: isinstance(value, bool), "true or false"),
}


def _check_merge_paths(spec: MergeSpec, fields: Sequence[str]) -> Iterator[Violation]:
    if not spec.checkpoint_path:
        yield Violation(fields[0], "not set; name the folder of the sharded checkpoint")
    for field, path in zip(fields, (spec.checkpoint_path, spec.output_path, spec.config_path), strict=True):
        yield from check_absolute(path, field)


def _check_baseline(name: str) -> Iterator[Violation]:
    """Whether a baseline that is a path is one that the worker will find; the engine checks the rest."""
    if not name:
        return
    try:
        source = parse_baseline(name)
    except BaselineNameError:
        return
    if isinstance(source, LocalSource) and not source.path.is_absolute():
        remedy = "is not an absolute path; the server has a working folder of its own"
        yield Violation("spec.baseline", f"{shown(name)} {remedy}")

"""By what a request could have the server run code of the requester's choosing, or talk to a host of it.

Each is refused unless a setting allows it. ``docs/security.md`` lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.packages import LMMS_EVAL_PREFIX
from lmms_eval_grpc.engine.tasks.index import is_task_file
from lmms_eval_grpc.jobs.errors import Violation
from lmms_eval_grpc.jobs.spec import EvaluationSpec
from lmms_eval_grpc.server.folders import shown
from lmms_eval_grpc.worker.path_rules import strings

_TRUST = "this server does not run code from checkpoints; leave it out, or start the server with trust_remote_code"
_TASKS = (
    "this server runs no tasks that requests bring, because their code would run here; use a task that ListTasks lists,"
    " or start the server with allow_task_files"
)
_ARGUMENTS = (
    "this server starts inference servers with the arguments that ListModels lists and no others, which can name code"
    " and files; leave it out, or start the server with allow_server_args"
)
_FOREIGN = (
    "this server runs no backend of lmms-eval, whose arguments nobody can check and of which many run code from"
    " checkpoints; use another one that ListModels lists, or start the server with allow_lmms_eval_models"
)
_CODE_KEYS = frozenset({"trust_remote_code", "custom_generate"})
"""Keys, at any depth, that have the libraries load code. The value of those that are switches counts."""
_HTTP = re.compile(r"\s*https?:", re.IGNORECASE)
_ODD = re.compile(r"[\s\\\x00-\x20]")


@dataclass(frozen=True, slots=True)
class CodeRules:
    """What the server's operator allows; see the settings of these names."""

    trust_remote_code: bool = False
    allow_task_files: bool = False
    allow_server_args: bool = False
    allow_lmms_eval_models: bool = False
    allowed_api_hosts: Sequence[str] = ()


def refused_code(spec: EvaluationSpec, rules: CodeRules) -> Iterator[Violation]:
    """What of ``spec`` the rules do not allow."""
    if not rules.trust_remote_code:
        yield from _remote_code(spec)
    if not rules.allow_task_files:
        for index, _ in enumerate(spec.include_path):
            yield Violation(f"spec.include_path[{index}]", _TASKS)
        for index, name in enumerate(spec.tasks):
            if is_task_file(name):
                yield Violation(f"spec.tasks[{index}]", _TASKS)
    if not rules.allow_server_args and spec.model_args.get("server_args"):
        yield Violation("spec.model_args.server_args", _ARGUMENTS)
    yield from _hidden_options(spec)
    entry = registry.resolve(spec.model)
    if not rules.allow_lmms_eval_models and entry is not None and entry.name.startswith(LMMS_EVAL_PREFIX):
        yield Violation("spec.model", f"{shown(spec.model)}: {_FOREIGN}")
    if rules.allowed_api_hosts:
        yield from _foreign_hosts(spec, rules.allowed_api_hosts)


def _hidden_options(spec: EvaluationSpec) -> Iterator[Violation]:
    """Values that the command line of an inference server would take for options of its own, whatever is allowed."""
    entry = registry.resolve(spec.model)
    if entry is None or "server_args" not in entry.arguments:
        return
    for key, value in spec.model_args.items():
        on_command_line = entry.names(key) in ("", "checkpoint") or key == "chat_template"
        if on_command_line and isinstance(value, str) and value.lstrip().startswith("-"):
            yield Violation(
                f"spec.model_args.{key}",
                f"{shown(value)} begins with a dash, as options of the inference server do; leave it out",
            )


def _remote_code(spec: EvaluationSpec) -> Iterator[Violation]:
    if spec.trust_remote_code:
        yield Violation("spec.trust_remote_code", _TRUST)
    for field, values in (("spec.model_args", spec.model_args), ("spec.gen_kwargs", spec.gen_kwargs)):
        for place in _code_keys(values, field):
            yield Violation(place, _TRUST)
    kernels = spec.model_args.get("attn_implementation")
    if isinstance(kernels, str) and ("/" in kernels or ":" in kernels):
        yield Violation("spec.model_args.attn_implementation", f"{shown(kernels)} is fetched from the hub; {_TRUST}")


def _code_keys(value: Any, field: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if str(key).lower().replace("-", "_").lstrip("_") in _CODE_KEYS and item:
                yield f"{field}.{key}"
            else:
                yield from _code_keys(item, f"{field}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _code_keys(item, f"{field}[{index}]")


def _foreign_hosts(spec: EvaluationSpec, allowed: Sequence[str]) -> Iterator[Violation]:
    """Addresses of HTTP servers anywhere in the model's arguments."""
    for place, text in strings(spec.model_args, "spec.model_args"):
        is_address = place == "spec.model_args.base_url" or _HTTP.match(text)
        if is_address and not _is_allowed(text, allowed):
            yield Violation(
                place,
                f"the host of {shown(text)} is none that this server sends requests to; use another, or have its"
                " operator add it (allowed_api_hosts)",
            )


def _is_allowed(address: str, allowed: Sequence[str]) -> bool:
    """Whether the host, as every reader of such an address finds it, is one of those, which are ``host`` or
    ``host:port``."""
    for text in (address, unquote(address)):  # the backend takes it in either form
        if _ODD.search(text) or not _HTTP.match(text):
            return False
        try:
            parts = urlsplit(text)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            return False
        if port is None:
            port = 443 if parts.scheme.lower() == "https" else 80
        if not host or not {host, f"{host}:{port}", f"[{host}]:{port}"} & {name.lower() for name in allowed}:
            return False
    return True

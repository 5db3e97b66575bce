"""A model behind a server of the job's own, as a backend."""

from __future__ import annotations

import importlib.metadata
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.models.checkpoint_files import digest_checkpoint, digest_template, read_text
from lmms_eval_grpc.engine.models.entry import LoadSettings, ModelEntry
from lmms_eval_grpc.engine.models.hub_cache import resolve_commit
from lmms_eval_grpc.engine.models.managed.commands import BUILDERS, ServerCommand
from lmms_eval_grpc.engine.models.managed.server import ManagedServer
from lmms_eval_grpc.engine.models.openai.backend import OpenAIBackend
from lmms_eval_grpc.engine.models.openai.options import ServerAddress, read_requests
from lmms_eval_grpc.engine.models.protocol import Answer, Capabilities, GenerationRequest, LoglikelihoodRequest
from lmms_eval_grpc.engine.record.redact import redact_command

_FIRST_LIMIT = 32
"""Requests at once to begin with: the server is the job's alone and made for many."""


def load(entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> ManagedBackend:
    """The registry's loader: starts the server and waits until it is healthy.

    Raises :class:`EvaluationError` ``INVALID_MODEL_ARGS`` or ``MODEL_LOAD_FAILED``.
    """
    return start(BUILDERS[entry.name](values, settings.device, key := secrets.token_urlsafe(24)), key, values)


def start(command: ServerCommand, key: str, values: Mapping[str, Any]) -> ManagedBackend:
    """A backend whose server is up."""
    options = read_requests(values)
    checkpoint, template = Path(str(values["pretrained"])), values.get("chat_template")
    identity = {
        "backend": command.package,
        f"{command.package}_version": importlib.metadata.version(command.package),
        "pretrained": values["pretrained"],
        "weights_digest": digest_checkpoint(checkpoint) if checkpoint.is_dir() else None,
        "command": redact_command(command.arguments[1:]),
        # The command has no more than the name of a file, which may be written anew.
        "chat_template_digest": digest_template(read_text(template) if template else None),
        **options.identity(),
    }
    server = ManagedServer(command, key, values["startup_timeout"])
    server.start()
    # Only now: a server that loads its model for the first time has just put it into the cache.
    identity["revision"] = resolve_commit(values["pretrained"], values.get("revision"))
    address = ServerAddress(server.base_url, key, trust_env=False)
    backend = OpenAIBackend(
        address,
        str(values["pretrained"]),
        options,
        first_limit=_FIRST_LIMIT,
        takes_stop=command.takes_stop,
        lifeline=server,
    )
    return ManagedBackend(server, backend, identity)


class ManagedBackend:
    """A server and the requests to it. Made by :func:`start`."""

    def __init__(self, server: ManagedServer, requests: OpenAIBackend, identity: Mapping[str, Any]) -> None:
        self.server = server
        self._requests = requests
        self._identity = identity

    @property
    def capabilities(self) -> Capabilities:
        return self._requests.capabilities

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._identity

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        return self._requests.generate(requests)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        return self._requests.loglikelihood(requests)

    def close(self) -> None:
        self.server.close()

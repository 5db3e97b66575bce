"""A real server with an access list."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.server.principals import Role
from lmms_eval_grpc.v1 import admin_service_pb2_grpc
from lmms_eval_grpc.v1 import evaluation_service_pb2_grpc as pb_grpc
from tests.server.conftest import NewRig, Rig
from tests.support.access import bearer, give_token


@dataclass
class Guarded:
    """A server, its access list, and what shows each of its callers."""

    rig: Rig
    file: Path
    audit: Path
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def stub(self) -> Any:
        return pb_grpc.EvaluationServiceStub(self.rig.channel)

    @property
    def admin(self) -> Any:
        return admin_service_pb2_grpc.AdminServiceStub(self.rig.channel)

    def give(self, name: str, role: Role, **options: Any) -> tuple[tuple[str, str], ...]:
        self.tokens[name] = give_token(self.file, name, role, **options)
        return self.as_(name)

    def as_(self, name: str) -> tuple[tuple[str, str], ...]:
        """The metadata of a caller."""
        return bearer(self.tokens[name])

    def audited(self) -> list[dict[str, Any]]:
        """The lines of the audit log."""
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


NewGuarded = Callable[..., Awaitable[Guarded]]


@pytest.fixture
def new_guarded(new_rig: NewRig, tmp_path: Path) -> NewGuarded:
    """Starts a server that alice (submit), bob (submit), rita (read) and root (admin) may call."""

    async def start(**settings: Any) -> Guarded:
        file, audit = tmp_path / "access", tmp_path / "audit.jsonl"
        tokens = {
            name: give_token(file, name, role)
            for name, role in (
                ("alice", Role.SUBMIT),
                ("bob", Role.SUBMIT),
                ("rita", Role.READ),
                ("root", Role.ADMIN),
            )
        }
        rig = await new_rig(access_file=file, audit_log=audit, **settings)
        return Guarded(rig, file, audit, tokens)

    return start


@pytest.fixture
async def guarded(new_guarded: NewGuarded) -> Guarded:
    return await new_guarded()

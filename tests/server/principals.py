"""Callers with names, on a server that asks for no credentials."""

from __future__ import annotations

from typing import Any

import pytest

from lmms_eval_grpc.server import app
from lmms_eval_grpc.server.around import Around
from lmms_eval_grpc.server.principals import Principal, Role, set_principal

NAME_KEY = "test-principal"


class NamedByMetadata(Around):
    """Takes the caller's word for who it is."""

    async def call(self, behaviour: Any, request: Any, context: Any, details: Any) -> Any:
        for key, value in details.invocation_metadata or ():
            if key == NAME_KEY:
                set_principal(Principal(value, Role.SUBMIT))
        return await behaviour(request, context)


def name_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has servers that are started from now on believe what their callers say of themselves."""
    build = app.build_interceptors

    def with_names(args: Any, calls: Any, guards: Any) -> list[Any]:
        return build(args, calls, [*guards, NamedByMetadata()])

    monkeypatch.setattr(app, "build_interceptors", with_names)


def by(name: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call of ``name``."""
    return ((NAME_KEY, name),)

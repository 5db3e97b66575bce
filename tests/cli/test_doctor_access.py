"""``doctor`` on the access list, the audit log, and the folders that requests may touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.cli.doctor.access import check_access, check_roots
from lmms_eval_grpc.cli.doctor.finding import Finding, Level
from lmms_eval_grpc.cli.doctor.setup import Setup
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.principals import Role
from tests.support.access import give_token


def findings(**settings: Any) -> list[Finding]:
    setup = Setup(ServerArgs(**settings), {})
    return [*check_access(setup), *check_roots(setup)]


def test_without_settings_nothing_is_said() -> None:
    assert findings() == []


def test_a_setup_that_is_well(tmp_path: Path) -> None:
    access = tmp_path / "access"
    token = give_token(access, "alice", Role.SUBMIT)
    give_token(access, "bob", Role.READ, valid_for=-1)
    told = findings(
        access_file=access, audit_log=tmp_path / "new" / "audit", checkpoint_root=tmp_path, output_root=tmp_path
    )
    assert {one.level for one in told} == {Level.OK}
    assert "1 that are valid, 1 expired: alice (submit)" in told[0].message
    assert token not in str(told)


@pytest.mark.parametrize(("valid_for", "level"), [(-1, Level.WARNING), (60, Level.OK)])
def test_a_list_that_lets_nobody_in_is_a_warning(tmp_path: Path, valid_for: float, level: Level) -> None:
    give_token(tmp_path / "access", "alice", Role.SUBMIT, valid_for=valid_for)
    (one,) = findings(access_file=tmp_path / "access")
    assert one.level is level


def test_what_a_server_does_not_start_with_is_a_failure(tmp_path: Path) -> None:
    (one,) = findings(access_file=tmp_path / "missing")
    assert one.level is Level.FAILURE
    assert "there is no such file" in one.message
    give_token(tmp_path / "access", "alice", Role.SUBMIT)
    (tmp_path / "access").chmod(0o644)
    (one,) = findings(access_file=tmp_path / "access")
    assert one.level is Level.FAILURE
    assert "chmod 600" in one.message
    told = findings(audit_log=tmp_path, checkpoint_root=tmp_path / "missing", output_root=tmp_path / "access")
    assert [one.level for one in told] == [Level.FAILURE] * 3
    assert all(one.remedy for one in told)

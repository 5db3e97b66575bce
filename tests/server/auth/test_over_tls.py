"""Tokens and certificates over TLS, on a whole server."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from lmms_eval_grpc.cli.authority import Authority
from lmms_eval_grpc.client import AsyncEvalClient, PermissionDenied, Unauthenticated
from lmms_eval_grpc.server import ServerArgs
from lmms_eval_grpc.server.auth.access_file import add_entry, remove_entries
from lmms_eval_grpc.server.auth.entries import Entry
from lmms_eval_grpc.server.principals import Role
from lmms_eval_grpc.v1 import catalog_pb2
from tests.server.conftest import NewRig
from tests.support.access import give_token
from tests.support.tls import credentials, make_authority, server_settings


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "authority")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "access"


async def test_a_token_travels_by_tls(new_rig: NewRig, authority: Authority, file: Path) -> None:
    token = give_token(file, "alice", Role.SUBMIT)
    address = (await new_rig(access_file=file, **server_settings(authority))).server.address
    async with AsyncEvalClient(address, token=token, credentials=credentials(authority)) as client:
        assert await client.whoami() == catalog_pb2.Principal(name="alice", role=catalog_pb2.ROLE_SUBMIT)
        assert list((await client.server_info()).authentication) == ["token"]
    async with AsyncEvalClient(address, credentials=credentials(authority)) as client:
        with pytest.raises(Unauthenticated, match="this server asks who you are"):
            await client.whoami()


async def test_a_certificate_has_the_role_of_its_name(new_rig: NewRig, authority: Authority, file: Path) -> None:
    add_entry(file, Entry("certificate", "trainer", Role.READ, datetime.now(UTC)))
    token = give_token(file, "root", Role.ADMIN)
    rig = await new_rig(access_file=file, **server_settings(authority, mutual=True))
    address, own = rig.server.address, credentials(authority, authority.issue_client("trainer"))
    async with AsyncEvalClient(address, credentials=own) as client:
        assert await client.whoami() == catalog_pb2.Principal(name="trainer", role=catalog_pb2.ROLE_READ)
        assert list((await client.server_info()).authentication) == ["token", "client_certificate"]
        with pytest.raises(PermissionDenied, match="PauseQueue needs the role admin, and trainer has the role read"):
            await client.pause_queue()
    async with AsyncEvalClient(address, credentials=own, token=token) as client:
        assert (await client.whoami()).name == "root"
    async with AsyncEvalClient(address, credentials=own, token="leg_wrong") as client:
        with pytest.raises(Unauthenticated, match="the token is not in"):
            await client.whoami()
    stranger = credentials(authority, authority.issue_client("stranger"))
    async with AsyncEvalClient(address, credentials=stranger) as client:
        with pytest.raises(Unauthenticated, match="'stranger' of the client certificate is not in"):
            await client.whoami()
    remove_entries(file, "trainer")
    async with AsyncEvalClient(address, credentials=own) as client:
        with pytest.raises(Unauthenticated):
            await client.whoami()


async def test_without_a_list_certificates_are_administrators_under_their_names(
    new_rig: NewRig, authority: Authority
) -> None:
    rig = await new_rig(**server_settings(authority, mutual=True))
    own = credentials(authority, authority.issue_client("alice"))
    async with AsyncEvalClient(rig.server.address, credentials=own) as client:
        assert await client.whoami() == catalog_pb2.Principal(name="alice", role=catalog_pb2.ROLE_ADMIN)
        assert list((await client.server_info()).authentication) == ["client_certificate"]
        model_args = {"pretrained": str(rig.checkpoint)}
        job = await client.evaluate(model="idefics3", tasks="handwritten_digits", model_args=model_args)
        assert (await client.get(job["job_id"])).owner == "alice"


def test_a_server_with_tls_and_an_access_list_may_be_reached_from_other_machines(
    authority: Authority, file: Path
) -> None:
    settings = server_settings(authority)
    ServerArgs(host="0.0.0.0", access_file=file, **settings).check_exposure()
    with pytest.raises(ValueError, match=r"access_file, so that callers need a token"):
        ServerArgs(host="0.0.0.0", **settings).check_exposure()
    with pytest.raises(ValueError, match="in the clear"):
        ServerArgs(host="0.0.0.0", access_file=file).check_exposure()

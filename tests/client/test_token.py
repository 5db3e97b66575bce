"""A token: where it comes from, that every call carries it, and that nothing else does."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from lmms_eval_grpc.client import AsyncEvalClient, EvalClient, PermissionDenied, Unauthenticated
from lmms_eval_grpc.client.address import parse_address
from lmms_eval_grpc.client.token import Token, find_token
from lmms_eval_grpc.v1 import job_pb2
from tests.client.scripted_server import Break, ScriptedServer, Servicer, details, state_change

TOKEN = "leg_secret-token"
BEARER = f"Bearer {TOKEN}"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "TOKEN_FILE", "PLAINTEXT_TOKEN"):
        monkeypatch.delenv(f"LMMS_EVAL_GRPC_{name}", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"  {TOKEN}\n")
    return file


def use_everything(client: Any, servicer: Servicer) -> None:
    """Calls of each kind: single ones, pages, and streams of both kinds."""
    servicer.add_job("job-1")
    servicer.publish(state_change(job_pb2.JOB_STATE_COMPLETED))
    client.list_models()
    client.list_tasks()
    client.get("job-1")
    assert len(list(client.watch_job("job-1"))) == 2
    list(client.iter_logs("job-1"))
    list(client.iter_samples("job-1"))
    assert client.is_healthy()


def test_without_a_token_no_call_shows_anything(make_client: Callable[..., Any], servicer: Servicer) -> None:
    use_everything(make_client(), servicer)
    assert set(servicer.authorizations) == {""}


def test_every_call_shows_the_token(make_client: Callable[..., Any], servicer: Servicer, file: Path) -> None:
    use_everything(make_client(token=TOKEN), servicer)
    made = len(servicer.authorizations)
    assert made >= 7
    use_everything(make_client(token_file=file), servicer)
    assert set(servicer.authorizations) == {BEARER}
    assert len(servicer.authorizations) == 2 * made


def test_the_environment_is_asked_when_there_is_no_argument(
    make_client: Callable[..., Any], servicer: Servicer, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LMMS_EVAL_GRPC_TOKEN_FILE", str(file))
    make_client().list_models()
    monkeypatch.setenv("LMMS_EVAL_GRPC_TOKEN", "leg_of-the-environment")
    make_client().list_models()
    make_client(token="leg_given").list_models()
    make_client(token_file=str(file)).list_models()
    monkeypatch.setenv("LMMS_EVAL_GRPC_TOKEN", "")
    monkeypatch.setenv("LMMS_EVAL_GRPC_TOKEN_FILE", "")
    make_client().list_models()
    assert servicer.authorizations == [BEARER, "Bearer leg_of-the-environment", "Bearer leg_given", BEARER, ""]


def test_a_file_is_read_again_at_each_call(make_client: Callable[..., Any], servicer: Servicer, file: Path) -> None:
    client = make_client(token_file=file)
    client.list_models()
    file.write_text("leg_renewed")
    client.list_models()
    assert servicer.authorizations == [BEARER, "Bearer leg_renewed"]
    file.unlink()
    with pytest.raises(Unauthenticated, match="cannot be read"):
        client.list_models()
    with pytest.raises(Unauthenticated, match="cannot be read"):
        list(client.watch_job("job-1"))


@pytest.mark.parametrize("kind", [EvalClient, AsyncEvalClient])
def test_a_token_is_in_no_message_and_no_repr(kind: Any, file: Path) -> None:
    for client in (kind(token=TOKEN), kind(token_file=file)):
        assert TOKEN not in repr(client) + repr(client._settings)
    for wrong in (f"{TOKEN} {TOKEN}", f"{TOKEN}\nx", f"{TOKEN}ü", ""):
        with pytest.raises(ValueError, match="token: holds no token") as raised:
            kind(token=wrong)
        assert TOKEN not in str(raised.value)
        file.write_text(wrong)
        with pytest.raises(ValueError, match=r"token_file: .* holds no token") as raised:
            kind(token_file=file)
        assert TOKEN not in str(raised.value)
    with pytest.raises(ValueError, match="cannot be read"):
        kind(token_file=file.parent / "missing")
    with pytest.raises(ValueError, match="give one of them"):
        kind(token=TOKEN, token_file=file)


def test_a_copy_that_travels_takes_its_credentials_along(server: ScriptedServer, file: Path) -> None:
    for given in ({"token": TOKEN}, {"token_file": file}, {}):
        with EvalClient(server.address, **given) as client, pickle.loads(pickle.dumps(client)) as copy:
            copy.list_models()
    assert server.servicer.authorizations == [BEARER, BEARER, ""]
    far = EvalClient("eval-server:50051", token=TOKEN, plaintext_token=True)
    assert pickle.loads(pickle.dumps(far))._settings.token.text == TOKEN


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/run/eval.sock", "grpcs://far:1"])
def test_a_token_travels_where_nobody_listens(address: str) -> None:
    assert find_token(parse_address(address), TOKEN, None, None, {}) == Token(TOKEN)


@pytest.mark.parametrize("address", ["far:1", "10.0.0.7:1", "http://far:1", "0.0.0.0:1"])
def test_a_token_does_not_travel_in_the_clear_unless_it_is_said_in_words(address: str, file: Path) -> None:
    far = parse_address(address)
    cases: tuple[tuple[tuple[Any, Any, Any], dict[str, str]], ...] = (
        ((TOKEN, None, None), {}),
        ((None, file, None), {}),
        ((None, None, None), {"LMMS_EVAL_GRPC_TOKEN": TOKEN}),
        ((None, None, None), {"LMMS_EVAL_GRPC_TOKEN_FILE": str(file)}),
        ((TOKEN, None, False), {"LMMS_EVAL_GRPC_PLAINTEXT_TOKEN": "1"}),
        ((TOKEN, None, None), {"LMMS_EVAL_GRPC_PLAINTEXT_TOKEN": "0"}),
    )
    for (token, token_file, plaintext_token), environ in cases:
        with pytest.raises(ValueError, match=r"in the clear.*grpcs://.*plaintext_token=True") as raised:
            find_token(far, token, token_file, plaintext_token, environ)
        assert TOKEN not in str(raised.value)
    assert find_token(far, TOKEN, None, True, {}) == Token(TOKEN)
    allowed = {"LMMS_EVAL_GRPC_PLAINTEXT_TOKEN": "1"}
    assert find_token(far, TOKEN, None, None, allowed) == Token(TOKEN)
    assert find_token(far, None, None, None, {}) == Token()


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", PermissionDenied),
    ],
)
def test_refusals_have_types_and_are_not_tried_again(
    make_client: Callable[..., Any], servicer: Servicer, code: grpc.StatusCode, reason: str, kind: type[Exception]
) -> None:
    servicer.add_job("job-1")
    servicer.breaks = {name: [Break(code, "no", details(reason))] for name in ("ListModels", "WatchJob")}
    client = make_client(token=TOKEN)
    with pytest.raises(kind, match="no") as raised:
        client.list_models()
    assert (raised.value.reason, raised.value.metadata) == (reason, {"a": "b"})  # type: ignore[attr-defined]
    with pytest.raises(kind, match="no"):
        list(client.watch_job("job-1"))
    assert (servicer.calls["ListModels"], servicer.calls["WatchJob"]) == (1, 1)
    assert isinstance(raised.value, PermissionError) == (kind is PermissionDenied)


class RenewedMeanwhile(Break):
    """Refuses a call, by which time there is another token in the file."""

    def __init__(self, file: Path) -> None:
        self.code, self.trailers, self._file = grpc.StatusCode.UNAUTHENTICATED, details("UNAUTHENTICATED"), file

    @property
    def text(self) -> str:  # type: ignore[override]
        self._file.write_text("leg_renewed")
        return "revoked"


def test_a_refused_watch_goes_on_when_the_file_holds_another_token_by_then(
    make_client: Callable[..., Any], servicer: Servicer, file: Path
) -> None:
    servicer.add_job("job-1")
    servicer.publish(state_change(job_pb2.JOB_STATE_COMPLETED))
    servicer.breaks = {"WatchJob": [RenewedMeanwhile(file)]}
    events = list(make_client(token_file=file).watch_job("job-1"))
    assert [event.sequence for event in events] == [1, 2]
    assert servicer.authorizations == [BEARER, "Bearer leg_renewed"]
    servicer.breaks = {"WatchJob": [RenewedMeanwhile(file)]}  # with the token that was sent
    with pytest.raises(Unauthenticated, match="revoked"):
        list(make_client(token_file=file).watch_job("job-1"))

"""Addresses: what is accepted, what grpc dials for it, and what is refused with which words."""

from __future__ import annotations

import pytest

from lmms_eval_grpc.client import AsyncEvalClient, EvalClient
from lmms_eval_grpc.client.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "target", "is_local"),
    [
        ("localhost:50051", "localhost:50051", True),
        ("http://localhost:50051", "localhost:50051", True),
        ("http://localhost:50051/", "localhost:50051", True),
        ("HTTP://eval.example:80", "eval.example:80", False),
        ("grpc://10.0.0.7:50051", "10.0.0.7:50051", False),
        ("127.0.0.2:1", "127.0.0.2:1", True),
        ("[::1]:50051", "[::1]:50051", True),
        ("http://[2001:db8::1]:50051", "[2001:db8::1]:50051", False),
        ("unix:/run/eval.sock", "unix:/run/eval.sock", True),
        ("unix:///run/eval.sock", "unix:/run/eval.sock", True),
    ],
)
def test_accepted_forms(text: str, target: str, is_local: bool) -> None:
    assert parse_address(text) == Address(target, is_local)


@pytest.mark.parametrize("scheme", ["grpcs", "https", "GRPCS"])
def test_the_forms_that_ask_for_tls(scheme: str) -> None:
    assert parse_address(f"{scheme}://eval.example:443") == Address("eval.example:443", False, is_encrypted=True)
    assert not parse_address("grpc://eval.example:443").is_encrypted


def test_an_address_that_leaves_it_open_can_be_made_to_mean_tls() -> None:
    assert parse_address("eval.example:443", encrypt=True).is_encrypted
    assert not parse_address("grpc://eval.example:443", encrypt=True).is_encrypted
    assert not parse_address("unix:/run/eval.sock", encrypt=True).is_encrypted
    assert str(parse_address("https://eval.example:443")) == "grpcs://eval.example:443"
    assert str(parse_address("http://eval.example:80")) == "eval.example:80"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("localhost", "no port"),
        ("http://localhost", "no port"),
        (":50051", "no host"),
        ("dns:///eval.example:80", "dns:// is not supported"),
        ("localhost:port", "use host:port"),
        ("localhost:99999", "use host:port"),
        ("http://localhost:50051/api", "only a host and a port"),
        ("http://me@localhost:50051", "only a host and a port"),
        ("unix:eval.sock", "absolute path"),
        ("unix:/", "absolute path"),
        ("", "no host"),
    ],
)
def test_other_forms_are_refused_with_the_remedy(text: str, words: str) -> None:
    for client in (EvalClient, AsyncEvalClient):
        with pytest.raises(ValueError, match=words):
            client(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"heartbeat_interval": 0.5},
        {"heartbeat_interval": 301},
        {"reconnect_timeout": 0},
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, float]) -> None:
    for client in (EvalClient, AsyncEvalClient):
        with pytest.raises(ValueError, match=next(iter(settings))):
            client("localhost:1", **settings)  # type: ignore[arg-type]

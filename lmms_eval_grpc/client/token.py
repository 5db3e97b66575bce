"""The token that shows the server who calls: where it comes from, and when it may be sent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from lmms_eval_grpc.client.address import Address
from lmms_eval_grpc.client.errors import Unauthenticated, status_of

TOKEN_VARIABLE = "LMMS_EVAL_GRPC_TOKEN"
FILE_VARIABLE = "LMMS_EVAL_GRPC_TOKEN_FILE"
PLAINTEXT_VARIABLE = "LMMS_EVAL_GRPC_PLAINTEXT_TOKEN"

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A token, or the file that holds one, or neither."""

    text: str | None = field(default=None, repr=False)
    file: Path | None = None

    def metadata(self) -> Metadata:
        """What each call carries. A file is read each time: it may have been renewed.

        Raises:
            Unauthenticated: the file cannot be read any more, or holds no token.
        """
        if self.text is not None:
            return _metadata(self.text)
        if self.file is None:
            return ()
        try:
            return _metadata(_read(self.file))
        except ValueError as error:
            raise Unauthenticated(str(error)) from error

    def was_renewed(self, error: grpc.RpcError, sent: Metadata) -> bool:
        """Whether a call that carried ``sent`` was refused for it, and there is another token in the file by now."""
        refused = status_of(error)[0] is grpc.StatusCode.UNAUTHENTICATED
        return refused and self.metadata() != sent


def find_token(
    address: Address,
    token: str | None,
    token_file: str | os.PathLike[str] | None,
    plaintext_token: bool | None,
    environ: Mapping[str, str] | None = None,
) -> Token:
    """The token that arguments, and in their absence the environment, tell. An empty variable is none.

    Raises:
        ValueError: the token cannot be one, its file cannot be read, or it would travel in the clear.
    """
    environ = os.environ if environ is None else environ
    if token is not None and token_file is not None:
        raise ValueError("token and token_file: give one of them")
    if token is None and token_file is None:
        token = environ.get(TOKEN_VARIABLE) or None
        token_file = None if token is not None else environ.get(FILE_VARIABLE) or None
    if token is None and token_file is None:
        return Token()
    if token is not None:
        found = Token(text=_checked(token, "token"))
    else:
        found = Token(file=Path(token_file or "").expanduser().absolute())
        _read(found.file or Path())
    allowed = environ.get(PLAINTEXT_VARIABLE) == "1" if plaintext_token is None else plaintext_token
    if not (address.is_encrypted or address.is_local or allowed):
        raise ValueError(
            f"the token would travel to {address.target} in the clear, for anybody on the way to read: use"
            f" grpcs://{address.target}, or an ssh tunnel; on a network that nobody else can listen to, say"
            f" plaintext_token=True ({PLAINTEXT_VARIABLE}=1)"
        )
    return found


def _metadata(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"token_file: {file} cannot be read: {reason}") from None
    return _checked(text.strip(), f"token_file: {file}")


def _checked(token: str, source: str) -> str:
    """The token, unless it cannot be one. Messages must not have it in them."""
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{source}: holds no token; one is a single word, as lmms-eval-grpc token create prints it")
    return token

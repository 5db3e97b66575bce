"""The file of the access list: what it may say, who may read it, and what happens when several change it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lmms_eval_grpc.server.auth.access_file import add_entry, read_entries, remove_entries
from lmms_eval_grpc.server.auth.entries import TOKEN_PREFIX, BadEntry, Entry, hash_token, new_token, parse_line
from lmms_eval_grpc.server.principals import Role
from tests.support.access import give_token

HASH = "0" * 64
GOOD = (
    '{"kind": "token", "name": "a", "role": "read", "sha256": "' + HASH + '", "created": "2026-01-01T00:00:00+00:00"}'
)


def test_tokens_are_recognisable_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith(TOKEN_PREFIX) and len(token) == len(TOKEN_PREFIX) + 43 for token in tokens)


def test_the_file_holds_hashes_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "access"
    token = give_token(file, "alice", Role.SUBMIT, valid_for=3600)
    text = file.read_text()
    assert token not in text
    assert token.removeprefix(TOKEN_PREFIX) not in text
    assert hash_token(token) in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (entry,) = read_entries(file)
    assert (entry.kind, entry.name, entry.role, entry.sha256) == ("token", "alice", Role.SUBMIT, hash_token(token))
    assert entry.expires is not None
    assert timedelta(minutes=59) < entry.expires - datetime.now(UTC) <= timedelta(hours=1)
    assert [path.name for path in file.parent.iterdir() if "draft" in path.name] == []


def test_what_is_written_is_read_again() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for entry in (
        Entry("token", "a.b-c_d@e", Role.ADMIN, now, HASH),
        Entry("token", "a", Role.READ, now, HASH, now + timedelta(days=30)),
        Entry("certificate", "CN of Ünïcode, with spaces", Role.SUBMIT, now),
    ):
        assert parse_line(entry.to_line()) == entry


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "is not a JSON object"),
        ("[]", "is not a JSON object of texts"),
        (GOOD.replace('"read"', "3"), "is not a JSON object of texts"),
        (GOOD.replace('"read"', '"root"'), "role: 'root' is not one of read, submit, admin"),
        (GOOD.replace('"read"', '"none"'), "role: 'none' is not one of read, submit, admin"),
        (GOOD.replace('"token"', '"key"'), "kind: 'key' is not one of token, certificate"),
        (GOOD.replace('"token"', '"certificate"'), "a certificate has none"),
        (GOOD.replace(HASH, "abc"), "64 hexadecimal digits"),
        (GOOD.replace('"a"', '"anonymous"'), "choose another"),
        (GOOD.replace('"a"', '"unknown"'), "choose another"),
        (GOOD.replace('"a"', '"a b"'), "must be 1 to 64 letters"),
        (GOOD.replace('"a"', '""'), "must be 1 to 64 letters"),
        (GOOD.replace("2026-01-01T00:00:00+00:00", "yesterday"), "created: 'yesterday' is not a time"),
        (GOOD.replace('"created"', '"expires"'), "created: not set"),
        (GOOD.replace("}", ', "expire": "2026-01-01"}'), "unknown key 'expire'"),
    ],
)
def test_a_wrong_line_is_told_with_its_number_and_without_its_hash(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "access"
    file.write_text(f"# who may call\n\n{GOOD}\n{line}\n")
    file.chmod(0o600)
    with pytest.raises(BadEntry) as raised:
        read_entries(file)
    assert f"{file}, line 4: " in str(raised.value)
    assert says in str(raised.value)
    assert HASH not in str(raised.value)
    with pytest.raises(BadEntry, match="line 4"):
        give_token(file, "b", Role.READ)
    assert file.read_text().endswith(f"{line}\n")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "access"
    give_token(file, "alice", Role.READ)
    file.chmod(mode)
    with pytest.raises(BadEntry, match=f"mode {mode:04o}.*chmod 600"):
        read_entries(file)
    with pytest.raises(BadEntry, match="chmod 600"):
        remove_entries(file, "alice")


def test_a_second_token_of_a_name_must_be_asked_for_and_each_can_be_revoked(tmp_path: Path) -> None:
    file = tmp_path / "access"
    first = Entry("token", "alice", Role.READ, datetime.now(UTC), hash_token("one"))
    second = Entry("token", "alice", Role.READ, datetime.now(UTC), hash_token("two"))
    add_entry(file, first)
    with pytest.raises(BadEntry, match="alice has a credential already"):
        add_entry(file, second)
    add_entry(file, second, another=True)
    give_token(file, "bob", Role.READ)
    assert [entry.id for entry in remove_entries(file, first.id)] == [first.id]
    assert [entry.name for entry in read_entries(file)] == ["alice", "bob"]
    assert [entry.id for entry in remove_entries(file, "alice")] == [second.id]
    with pytest.raises(BadEntry, match="there is no 'alice'"):
        remove_entries(file, "alice")
    with pytest.raises(BadEntry, match="there is no such file"):
        remove_entries(tmp_path / "missing", "alice")
    assert not (tmp_path / "missing").exists()


def test_comments_and_links_stay(tmp_path: Path) -> None:
    file, link = tmp_path / "access", tmp_path / "link"
    file.write_text("# trainers\n\n")
    file.chmod(0o600)
    link.symlink_to(file)
    give_token(link, "alice", Role.READ)
    assert link.is_symlink()
    assert file.read_text().startswith("# trainers\n\n{")
    remove_entries(link, "alice")
    assert file.read_text() == "# trainers\n\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_changes_stays_its_owners(tmp_path: Path) -> None:
    """Or the server, which runs as another user, could not read that a token was revoked."""
    file = tmp_path / "access"
    give_token(file, "alice", Role.READ)
    for path in (file, file.with_name(".access.lock")):
        os.chown(path, 12345, 23456)
    file.with_name(".access.lock").unlink()
    remove_entries(file, "alice")
    for path in (file, file.with_name(".access.lock")):
        assert (path.stat().st_uid, path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (12345, 23456, 0o600)


def test_those_who_change_it_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "access"
    program = (
        "import sys; from pathlib import Path\n"
        "from lmms_eval_grpc.server.principals import Role\n"
        "from tests.support.access import give_token\n"
        "for number in range(20): give_token(Path(sys.argv[1]), f'{sys.argv[2]}{number}', Role.READ)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(file), name]) for name in ("a", "b", "c")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    names = {f"{name}{number}" for name in "abc" for number in range(20)}
    assert {entry.name for entry in read_entries(file)} == names

"""``token``: making, showing and revoking what a server asks for, and the other commands with it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from lmms_eval_grpc.cli.exit_codes import ExitCode
from tests.cli.conftest import NewRig, Rig, Terminal, command, environment, run_command, run_on_terminal


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "access"


def make(file: Path, name: str, role: str, *more: str) -> str:
    done = run_command("token", "create", name, "--role", role, "--access-file", str(file), *more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def guarded(new_rig: NewRig, file: Path) -> Rig:
    """A server that asks who calls."""
    make(file, "root", "admin")
    return new_rig(access_file=file)


def test_a_token_is_printed_once_and_kept_as_a_hash(file: Path) -> None:
    done = run_command("token", "--access-file", str(file), "create", "alice", "--role", "submit", "--expires", "30d")
    assert done.returncode == 0, done.stderr
    token = done.stdout.strip()
    assert token.startswith("leg_")
    assert token not in done.stderr
    assert "the token of alice, role submit, expires " in done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    env = environment(LMMS_EVAL_GRPC_ACCESS_FILE=str(file))
    shown = run_command("token", "list", env=env)
    (heading, row) = shown.stdout.splitlines()
    assert heading.split() == ["name", "role", "kind", "id", "created", "expires"]
    assert row.split()[:3] == ["alice", "submit", "token"]
    assert token not in shown.stdout + file.read_text()
    (entry,) = json.loads(run_command("token", "list", "--json", env=env).stdout)["entries"]
    assert set(entry) == {"name", "role", "kind", "id", "created", "expires"}
    revoked = run_command("token", "revoke", "alice", env=env)
    assert revoked.stdout.strip() == f"revoked: the token of alice ({entry['id']})"
    assert "nobody" in run_command("token", "list", env=env).stderr


def test_for_programs_everything_is_json(file: Path) -> None:
    made = run_command("token", "--access-file", str(file), "--json", "create", "ci", "--role", "read")
    document = json.loads(made.stdout)
    assert document["token"].startswith("leg_")
    assert (document["name"], document["role"], document["expires"]) == ("ci", "read", None)
    revoked = run_command("token", "--access-file", str(file), "--json", "revoke", document["id"])
    assert [entry["name"] for entry in json.loads(revoked.stdout)["revoked"]] == ["ci"]


def test_the_name_of_a_certificate_gets_a_role_and_no_token(file: Path) -> None:
    done = run_command("token", "--access-file", str(file), "create", "trainer 7", "--role", "submit", "--certificate")
    assert (done.returncode, done.stdout) == (0, "")
    assert "certificates of trainer 7 have the role submit" in done.stderr
    listed = json.loads(run_command("token", "--access-file", str(file), "--json", "list").stdout)
    assert [(entry["kind"], entry["name"], entry["id"]) for entry in listed["entries"]] == [
        ("certificate", "trainer 7", "")
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("create", "alice"), "required: --role"),
        (("create", "alice", "--role", "root"), "invalid choice: 'root'"),
        (("create", "alice", "--role", "read", "--expires", "soon"), "'soon' is not a time"),
        (("create", "a b", "--role", "read"), "name: 'a b' must be 1 to 64"),
        (("create", "anonymous", "--role", "read"), "choose another"),
        (("create", "known", "--role", "read"), "known has a credential already"),
        (("revoke", "stranger"), "there is no 'stranger'"),
        ((), "required: action"),
    ],
)
def test_mistakes_are_told(file: Path, words: tuple[str, ...], says: str) -> None:
    make(file, "known", "read")
    before = file.read_text()
    done = run_command("token", "--access-file", str(file), *words)
    assert done.returncode == ExitCode.USAGE
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_text() == before


def test_without_a_file_the_command_asks_for_one(file: Path) -> None:
    done = run_command("token", "list")
    assert done.returncode == ExitCode.USAGE
    assert "--access-file" in done.stderr
    missing = run_command("token", "--access-file", str(file), "list")
    assert (missing.returncode, "there is no such file" in missing.stderr) == (ExitCode.USAGE, True)


def test_commands_show_the_token_of_a_file_or_of_the_environment(guarded: Rig, file: Path, tmp_path: Path) -> None:
    token = make(file, "alice", "submit")
    held = tmp_path / "token"
    held.write_text(f"{token}\n")
    nothing = guarded.run("queue")
    assert nothing.returncode == ExitCode.SERVER_ERROR
    assert "this server asks who you are" in nothing.stderr
    for done in (
        guarded.run("info", "--token-file", str(held)),
        guarded.run("--token-file", str(held), "info"),
        guarded.run("info", LMMS_EVAL_GRPC_TOKEN=token),
        guarded.run("info", LMMS_EVAL_GRPC_TOKEN_FILE=str(held)),
    ):
        assert done.returncode == 0, done.stderr
        assert "alice (submit)" in done.stdout
        assert "token" in done.stdout
    document = json.loads(guarded.run("info", "--json", LMMS_EVAL_GRPC_TOKEN=token).stdout)
    assert document["caller"] == {"name": "alice", "role": "ROLE_SUBMIT"}
    denied = guarded.run("pause", LMMS_EVAL_GRPC_TOKEN=token)
    assert denied.returncode == ExitCode.SERVER_ERROR
    assert "PauseQueue needs the role admin, and alice has the role submit" in denied.stderr
    json_error = json.loads(guarded.run("--json", "pause", LMMS_EVAL_GRPC_TOKEN=token).stderr)["error"]
    assert (json_error["code"], json_error["metadata"]) == ("PERMISSION_DENIED", {"permission": "admin"})
    wrong = guarded.run("info", LMMS_EVAL_GRPC_TOKEN="leg_wrong")
    assert wrong.returncode == ExitCode.SERVER_ERROR
    assert "leg_wrong" not in wrong.stderr
    missing = guarded.run("info", "--token-file", str(tmp_path / "missing"))
    assert missing.returncode == ExitCode.USAGE
    assert "token_file" in missing.stderr
    run_command("token", "--access-file", str(file), "revoke", "alice")
    assert guarded.run("info", "--token-file", str(held)).returncode == ExitCode.SERVER_ERROR


def test_jobs_are_listed_by_owner(guarded: Rig, file: Path) -> None:
    alice, bob = make(file, "alice", "submit"), make(file, "bob", "submit")
    first = guarded.run(*guarded.submit_words(), LMMS_EVAL_GRPC_TOKEN=alice).stdout.strip()
    second = guarded.run(*guarded.submit_words(), LMMS_EVAL_GRPC_TOKEN=bob).stdout.strip()

    def listed(*words: str) -> list[str]:
        done = guarded.run("jobs", "--json", *words, LMMS_EVAL_GRPC_TOKEN=alice)
        return [job["job_id"] for job in json.loads(done.stdout)["jobs"]]

    assert listed() == [second, first]
    assert listed("--owner", "bob") == [second]
    assert listed("--mine") == [first]
    table = guarded.run("jobs", LMMS_EVAL_GRPC_TOKEN=alice).stdout.splitlines()
    assert table[0].split()[-1] == "owner"
    assert [line.split()[-1] for line in table[1:]] == ["bob", "alice"]
    assert "alice" in guarded.run("job", first, LMMS_EVAL_GRPC_TOKEN=bob).stdout
    both = guarded.run("jobs", "--mine", "--owner", "bob", LMMS_EVAL_GRPC_TOKEN=alice)
    assert both.returncode == ExitCode.USAGE


def test_a_token_does_not_travel_in_the_clear_over_a_network(file: Path) -> None:
    env = environment(LMMS_EVAL_GRPC_TOKEN=make(file, "alice", "read"))
    done = run_command("--address", "192.0.2.1:50051", "info", env=env)
    assert done.returncode == ExitCode.USAGE
    assert "in the clear" in done.stderr
    assert "grpcs://192.0.2.1:50051" in done.stderr


def test_top_shows_its_token_and_ends_with_the_reason_when_it_is_revoked(
    guarded: Rig, file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("textual")
    token = make(file, "alice", "submit")
    held = tmp_path / "token"
    held.write_text(token)
    job_id = guarded.run(*guarded.submit_words(), LMMS_EVAL_GRPC_TOKEN=token).stdout.strip()

    def revoke(terminal: Terminal) -> None:
        terminal.wait_for(job_id)
        assert run_command("token", "--access-file", str(file), "revoke", "alice").returncode == 0

    words = command("top", "--token-file", str(held))
    status, shown = run_on_terminal(words, guarded.environment(), revoke)
    assert status == ExitCode.SERVER_ERROR
    assert "revoked" in shown
    assert "Traceback" not in shown

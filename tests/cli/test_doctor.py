"""``doctor`` on set-ups that are well, and on broken ones."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from lmms_eval_grpc.cli.doctor import configuration, evaluation, hub, machine, network, packages, storage
from lmms_eval_grpc.cli.doctor.devices import judge_torch
from lmms_eval_grpc.cli.doctor.finding import Finding, Level
from lmms_eval_grpc.cli.doctor.setup import Setup
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.top import describe_queue
from lmms_eval_grpc.server import config_sources
from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.store.schema import MIGRATIONS
from lmms_eval_grpc.store.sqlite import SqliteStore
from tests.cli.conftest import PATIENCE, NewRig, Rig, command, environment, run_command
from tests.store.test_failures import limit_pages

UNWRITABLE = Path("/proc/nothing")
"""Nobody can make this, root neither."""


def setup(environ: dict[str, str] | None = None, **settings: Any) -> Setup:
    return Setup(ServerArgs(**settings), environ or {})


def found(findings: Iterator[Finding], level: Level) -> dict[str, Finding]:
    """The findings of a level by check, each with a remedy unless it is well."""
    told = [one for one in findings if one.level is level]
    assert all(bool(one.remedy) == (level is not Level.OK) for one in told)
    return {one.check: one for one in told}


def doctor(*words: str, program: str = "") -> subprocess.CompletedProcess[str]:
    """The command, which imports torch in a process of its own: on a slow day that takes its time."""
    start = [sys.executable, "-c", program] if program else command("doctor", *words)
    return subprocess.run(start, env=environment(), capture_output=True, text=True, check=False, timeout=280)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def damage(state_dir: Path) -> None:
    """Leaves a store of which a page is overwritten."""
    state_dir.mkdir(mode=0o700, exist_ok=True)
    path = state_dir / "jobs.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jobs (job TEXT)")
        connection.executemany("INSERT INTO jobs VALUES (?)", [("x" * 500,)] * 100)
    connection.close()
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)


def test_a_set_up_that_is_well_is_0_and_left_as_it_was(tmp_path: Path) -> None:
    words = ("--state-dir", str(tmp_path / "state"), "--port", "0", "--devices", "cpu")
    done = doctor(*words, "--json")
    assert done.returncode == ExitCode.OK, done.stdout
    document = json.loads(done.stdout)
    assert document["failures"] == 0
    named = {one["check"] for one in document["checks"]}
    assert named >= {
        *("settings", "python", "packages", "protobuf", "media", "devices", "torch", "memory", "shared memory"),
        *("open files", "clock", "state_dir", "disk space", "file system", "lock", "store", "port", "tasks"),
        *("trackers", "hub", "hub cache"),
    }
    assert all(one["remedy"] for one in document["checks"] if one["level"] != "ok")
    (offline,) = [one for one in document["checks"] if one["check"] == "hub"]
    assert "HF_HUB_OFFLINE" in offline["message"]
    assert list(tmp_path.iterdir()) == []


def test_all_that_is_broken_is_told_in_one_run_which_is_1(tmp_path: Path, taken_port: int) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: [1\n")
    damage(tmp_path / "state")
    done = doctor(
        *("--config", str(file), "--state-dir", str(tmp_path / "state"), "--port", str(taken_port)),
        *("--include-path", str(tmp_path / "missing"), "--track", "carrier-pigeon:home", "--devices", "cuda:7"),
    )
    assert done.returncode == ExitCode.JOB_FAILED
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    failures = [line.split()[1] for line in lines if line.startswith("failure")]
    assert failures == ["settings", "devices", "store", "port", "tasks", "trackers"]
    for position, line in enumerate(lines[:-1]):
        assert not line.startswith(("failure", "warning")) or lines[position + 1].strip().startswith("->")
    assert "not YAML" in done.stdout
    assert lines[-1].startswith("6 failures, ")


@pytest.mark.parametrize("words", [("doctor", "--port", "many"), ("doctor", "--host", "0.0.0.0")])
def test_settings_that_do_not_go_are_failures_and_not_usage(words: tuple[str, ...]) -> None:
    flags = {words[1].removeprefix("--"): words[2]}
    loaded, findings = configuration.load(flags, {})
    failures = found(iter([*findings, *configuration.check_combination(loaded)]), Level.FAILURE)
    assert words[2] in failures["settings"].message


def test_an_unknown_key_is_named_and_what_else_is_set_still_counts(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("prot = 1\n")
    loaded, findings = configuration.load({"config": str(file), "max_watches": "7"}, {})
    assert "did you mean 'port'?" in found(iter(findings), Level.FAILURE)["settings"].message
    assert loaded.args.max_watches == 7


def test_a_variable_that_is_almost_a_setting_is_a_warning() -> None:
    _, findings = configuration.load({}, {"LMMS_EVAL_GRPC_MAX_WATCHS": "7"})
    assert "LMMS_EVAL_GRPC_MAX_WATCHES" in found(iter(findings), Level.WARNING)["settings"].message
    assert not config_sources.logger.handlers


def test_a_state_folder_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    failures = found(storage.check_state_dir(setup(state_dir=UNWRITABLE)), Level.FAILURE)
    assert "/proc cannot be written" in failures["state_dir"].message
    (tmp_path / "file").touch()
    failures = found(storage.check_state_dir(setup(state_dir=tmp_path / "file" / "state")), Level.FAILURE)
    assert "is a file" in failures["state_dir"].message


def test_a_state_folder_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    warnings = found(storage.check_state_dir(setup(state_dir=tmp_path)), Level.WARNING)
    assert warnings["state_dir"].remedy == f"chmod 700 {tmp_path}"
    tmp_path.chmod(0o700)
    assert "state_dir" not in found(storage.check_state_dir(setup(state_dir=tmp_path)), Level.WARNING)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "kind"),
    [("/srv/a b/jobs", "nfs4"), ("/srv/a", "ext4"), ("/srv/ab", "ext4"), ("/dev/shm/x", "tmpfs"), ("/", "ext4")],
)
def test_the_kind_of_a_file_system_is_that_of_the_innermost_mount(tmp_path: Path, place: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n"
        "2 1 0:5 / /dev/shm rw - tmpfs tmpfs rw\n"
        "3 1 0:9 / /srv/a\\040b rw shared:2 master:1 - nfs4 host:/x rw\n"
    )
    assert storage.file_system(Path(place), mounts) == kind


def test_a_network_file_system_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "file_system", lambda path: "nfs4")
    assert "SQLite" in found(storage.check_state_dir(setup(state_dir=tmp_path)), Level.WARNING)["file system"].message


def test_a_damaged_store_and_one_of_a_later_release_are_failures(tmp_path: Path) -> None:
    damage(tmp_path / "state")
    before = sorted((tmp_path / "state").iterdir())
    problem = found(storage.check_store(setup(state_dir=tmp_path / "state")), Level.FAILURE)["store"]
    assert "put a backup in its place" in problem.remedy
    assert sorted((tmp_path / "state").iterdir()) == before
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database at all " * 300)
    problem = found(storage.check_store(setup(state_dir=tmp_path)), Level.FAILURE)["store"]
    assert "put a backup in its place" in problem.remedy
    (tmp_path / "jobs.sqlite3").unlink()
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    problem = found(storage.check_store(setup(state_dir=tmp_path)), Level.FAILURE)["store"]
    assert "run the release that wrote it" in problem.remedy


def test_the_store_lock_and_port_of_a_server_that_runs(rig: Rig) -> None:
    rig.submit()
    state_dir = rig.server.state_dir
    assert storage_is_well(state_dir)
    host, _, port = rig.address.rpartition(":")
    chosen = setup(state_dir=state_dir, host=host, port=int(port))
    assert str(os.getpid()) in found(storage.check_lock(chosen), Level.FAILURE)["lock"].message
    assert "an lmms-eval-grpc server" in found(network.check_port(chosen), Level.FAILURE)["port"].message
    # Looking has taken nothing from the server.
    assert rig.run("jobs").returncode == ExitCode.OK


def storage_is_well(state_dir: Path) -> bool:
    return set(found(storage.check_store(setup(state_dir=state_dir)), Level.OK)) == {"store"}


def test_a_store_whose_server_has_stopped_is_read_without_a_trace(new_rig: NewRig, tmp_path: Path) -> None:
    rig = new_rig()
    rig.submit()
    rig.wait_for(rig.server.stop(0))
    state_dir = rig.folder / "state"
    before = sorted(state_dir.iterdir())
    assert storage_is_well(state_dir)
    assert set(found(storage.check_lock(setup(state_dir=state_dir)), Level.OK)) == {"lock"}
    assert sorted(state_dir.iterdir()) == before


def test_looking_at_a_lock_does_not_keep_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    assert set(found(storage.check_lock(setup(state_dir=tmp_path)), Level.OK)) == {"lock"}
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_who_has_the_port_is_told(tmp_path: Path, taken_port: int) -> None:
    problem = found(network.check_port(setup(port=taken_port)), Level.FAILURE)["port"]
    assert "no lmms-eval-grpc server" in problem.message
    assert f":{taken_port}" in problem.remedy
    of_metrics = setup(port=0, metrics_port=taken_port)
    assert set(found(network.check_port(of_metrics), Level.FAILURE)) == {"metrics port"}
    problem = found(network.check_port(setup(host="203.0.113.9", port=0)), Level.FAILURE)["port"]
    assert "cannot be bound" in problem.message
    path = tmp_path / "socket"
    assert set(found(network.check_port(setup(unix_socket=path)), Level.OK)) == {"port"}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        assert "listens on" in found(network.check_port(setup(unix_socket=path)), Level.FAILURE)["port"].message
    problem = found(network.check_port(setup(unix_socket=tmp_path / ("x" * 200))), Level.FAILURE)["port"]
    assert "longer than" in problem.message


def test_too_few_open_files_for_the_streams_are_a_warning() -> None:
    assert (
        "LimitNOFILE=" in found(machine.check_open_files(setup(max_watches=10**9)), Level.WARNING)["open files"].remedy
    )
    assert set(found(machine.check_open_files(setup(max_watches=1)), Level.OK)) == {"open files"}


def test_the_memory_of_a_control_group_is_that_of_its_tightest_parent(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/eval.service\n")
    group = tmp_path / "cgroups/system.slice/eval.service"
    group.mkdir(parents=True)
    assert machine.group_limit(tmp_path / "proc", tmp_path / "cgroups") is None
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("8589934592\n")
    (group.parent.parent / "memory.max").write_text("99589934592\n")
    assert machine.group_limit(tmp_path / "proc", tmp_path / "cgroups") == 8589934592


def test_a_task_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("task: [x\n")
    warnings = found(evaluation.check_tasks(setup(include_path=(tmp_path,))), Level.WARNING)
    assert str(tmp_path / "broken.yaml") in warnings["tasks"].message


def test_packages_that_are_missing_or_too_old_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "lmms_eval_grpc-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lmms-eval-grpc\nVersion: 9\n"
        "Requires-Dist: grpcio>=999\n"
        'Requires-Dist: no-such-package>=2; extra == "server"\n'
        "Provides-Extra: server\nProvides-Extra: ray\nProvides-Extra: tracing\n"
        'Requires-Dist: no-such-ray; extra == "ray"\n'
        'Requires-Dist: no-such-sdk; extra == "tracing"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    problem = found(packages.check_packages(setup()), Level.FAILURE)["packages"]
    assert "grpcio>=999 (installed: " in problem.message
    assert "no-such-package>=2" in problem.message
    assert "no-such-ray" in found(packages.check_extras(setup(executor="ray")), Level.FAILURE)["extra ray"].message
    traced = setup(otlp_endpoint="http://127.0.0.1:4318")
    assert "no-such-sdk" in found(packages.check_extras(traced), Level.FAILURE)["extra tracing"].message
    assert "jobs on several machines" in found(packages.check_extras(setup()), Level.OK)["extra ray"].message


@pytest.mark.parametrize(
    ("built_for", "devices", "gpus", "level", "words"),
    [
        (None, [], 0, Level.OK, "the CPU only"),
        ("12.8", [None, None], 2, Level.OK, "every GPU"),
        (None, [], 1, Level.FAILURE, "but there are GPUs"),
        ("12.8", [], 2, Level.FAILURE, "0 of 2 GPUs (the driver is too old)"),
        ("12.8", [None, "RuntimeError: no kernel image"], 2, Level.FAILURE, "cuda:1 cannot be computed with"),
    ],
)
def test_what_torch_says_is_held_against_what_the_driver_says(
    built_for: str | None, devices: list[str | None], gpus: int, level: Level, words: str
) -> None:
    told = {"version": "2.9", "built_for": built_for, "devices": devices, "warnings": ["the driver is too old"]}
    finding = judge_torch(told, gpus)
    assert finding.level is level
    assert words in finding.message


class _Hub(http.server.BaseHTTPRequestHandler):
    asked: tuple[str, ...] = ()
    date: str | None = None

    def do_HEAD(self) -> None:
        type(self).asked += (self.requestline,)
        self.send_response(405)
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.date or super().date_time_string(timestamp)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def new_hub() -> Iterator[Callable[..., tuple[str, type[_Hub]]]]:
    servers = []

    def start(**fields: Any) -> tuple[str, type[_Hub]]:
        kind = type("Hub", (_Hub,), fields)
        server = http.server.HTTPServer(("127.0.0.1", 0), kind)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", kind

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_hub_gets_one_request_for_its_head(new_hub: Callable[..., Any], tmp_path: Path) -> None:
    endpoint, kind = new_hub()
    findings = list(hub.check_hub(setup({"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)})))
    assert {one.check for one in findings} == {"hub", "hub cache"}
    assert {one.level for one in findings} == {Level.OK}
    assert kind.asked == ("HEAD / HTTP/1.1",)
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_is_not_the_hubs_is_a_warning(new_hub: Callable[..., Any]) -> None:
    endpoint, _ = new_hub(date="Tue, 01 Jan 2030 00:00:00 GMT")
    warnings = found(hub.check_hub(setup({"HF_ENDPOINT": endpoint})), Level.WARNING)
    assert "behind the hub's" in warnings["clock"].message


def test_a_hub_that_is_not_there_is_a_warning_and_its_password_no_secret_told(taken_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for endpoint in (f"http://ada:pass@127.0.0.1:{port}", "ftp://ada:pass@hub"):
        environ = {"HF_ENDPOINT": endpoint, "HF_HOME": str(UNWRITABLE)}
        findings = list(hub.check_hub(setup(environ)))
        assert {one.level for one in findings} == {Level.WARNING}
        assert {one.check for one in findings} == {"hub", "hub cache"}
        assert not any("pass" in one.message for one in findings)


def test_a_server_that_runs_is_checked_from_outside(rig: Rig) -> None:
    done = run_command("doctor", "--address", rig.address, "--json")
    assert done.returncode == ExitCode.OK, done.stdout
    document = json.loads(done.stdout)
    named = [one["check"] for one in document["checks"]]
    assert named == ["reachable", "health", "caller", "version", "devices", "latency", "clock"]
    levels = {one["check"]: one["level"] for one in document["checks"]}
    assert {levels[check] for check in ("reachable", "health", "version", "devices", "clock")} == {"ok"}
    # The address may stand before the command, too.
    assert run_command("-a", rig.address, "doctor").stdout.startswith("ok       reachable")


def test_a_server_that_takes_no_jobs_is_a_warning(rig: Rig) -> None:
    rig.execution(rig.submit())
    rig.wait_for(rig.server.drain())
    document = json.loads(run_command("doctor", "--address", rig.address, "--json").stdout)
    assert [one["check"] for one in document["checks"] if one["level"] == "warning"][:1] == ["health"]


def test_a_server_whose_disk_is_full_is_a_failure_with_the_reason(rig: Rig) -> None:
    store = rig.server._scheduler._store
    assert isinstance(store, SqliteStore)
    limit_pages(store, 0)
    refused = rig.run(*rig.submit_words("--system_instruction", "x" * 50_000))
    assert refused.returncode == ExitCode.REFUSED
    done = rig.run("doctor", "--address", rig.address)
    assert done.returncode == ExitCode.JOB_FAILED
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("failure")]
    assert "it takes no jobs: the job store cannot be written: database or disk is full; free space" in line
    assert "takes jobs again by itself" in done.stdout
    assert rig.run("queue").stdout.startswith("in trouble: the job store cannot be written: database or disk is full;")
    assert "\nnot accepting jobs; 0 running" in rig.run("queue").stdout
    with rig.client() as client:
        assert describe_queue(client.get_queue_status()).startswith("not accepting jobs, in trouble: the job store")
        limit_pages(store, 1_000_000)
        client.wait_for_ready(PATIENCE)
    assert rig.run("queue").stdout.startswith("accepting jobs; 0 running")
    assert rig.run("doctor", "--address", rig.address).returncode == ExitCode.OK


def test_a_server_that_is_not_there_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = run_command("doctor", "--address", f"127.0.0.1:{port}")
    assert done.returncode == ExitCode.JOB_FAILED
    assert done.stdout.startswith("failure  reachable")
    assert "1 failures, 0 warnings, 0 ok" in done.stdout


def test_a_server_of_another_kind_is_told_apart() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        done = run_command("doctor", "--address", f"127.0.0.1:{port}")
    finally:
        server.stop(0)
    assert done.returncode == ExitCode.JOB_FAILED
    assert "no lmms-eval-grpc server" in done.stdout


def test_where_only_the_client_is_installed_it_says_so(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('yaml', 'jinja2', 'numpy', 'grpc_health', 'grpc_reflection', 'pynvml', 'packaging', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "from lmms_eval_grpc.cli import main\n"
        f"sys.exit(main(['doctor', '--state-dir', {str(tmp_path)!r}, '--port', '0', '--devices', 'cpu']))\n"
    )
    done = doctor(program=program)
    assert done.returncode == ExitCode.JOB_FAILED, done.stderr
    assert done.stderr == ""
    failures = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("failure")}
    assert failures == {"packages", "protobuf", "tasks"}
    assert 'pip install "lmms-eval-grpc[server]"' in done.stdout

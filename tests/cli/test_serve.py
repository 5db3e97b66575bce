"""``serve``: a whole server, started and stopped by the command."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmms_eval_grpc.cli.exit_codes import ExitCode
from tests.cli.conftest import PATIENCE, command, environment, run_command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_is_started_asked_and_stopped(tmp_path: Path, number: signal.Signals) -> None:
    address_file = tmp_path / "address"
    words = ("serve", "--port", "0", "--state-dir", str(tmp_path / "state"), "--address-file", str(address_file))
    process = subprocess.Popen(
        command(*words, "--no-use-template"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not address_file.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        address = address_file.read_text().strip()
        assert run_command("info", "-a", address).returncode == ExitCode.OK
        process.send_signal(number)
        assert process.wait(PATIENCE) == ExitCode.OK
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        (("--port", "many"), "--port"),
        (("--host", "0.0.0.0"), "allow_insecure_remote"),
        (("--tls-cert", "/none.pem"), "tls_key"),
        (("--log-level", "loud"), "debug"),
    ],
)
def test_wrong_settings_are_2(tmp_path: Path, flags: tuple[str, ...], remedy: str) -> None:
    done = run_command("serve", "--state-dir", str(tmp_path), *flags)
    assert done.returncode == ExitCode.USAGE
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


def test_a_certificate_that_is_not_there_is_7(tmp_path: Path) -> None:
    flags = ("--tls-cert", "/none.pem", "--tls-key", "/none.key")
    done = run_command("serve", "--state-dir", str(tmp_path), "--port", "0", *flags)
    assert done.returncode == ExitCode.SERVER_ERROR
    assert "tls_cert: /none.pem cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_7(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_command("serve", "--state-dir", str(tmp_path), "--port", port, "--no-use-template")
    assert done.returncode == ExitCode.SERVER_ERROR
    assert port in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["torch", "grpc_health", "yaml", "cryptography"])
def test_without_the_server_extra_the_remedy_is_named(tmp_path: Path, module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from lmms_eval_grpc.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--state-dir", str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == ExitCode.USAGE
    assert 'pip install "lmms-eval-grpc[server]"' in done.stderr
    assert module in done.stderr

"""Settings from flags, environment and file."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import pytest

from lmms_eval_grpc.server import ServerArgs
from lmms_eval_grpc.server.config import settings
from lmms_eval_grpc.server.config_sources import add_flags, describe, load_args
from lmms_eval_grpc.server.exposure import authenticates_callers
from lmms_eval_grpc.server.settings import ConfigError


def parse(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser.parse_args(flags)


def test_without_anything_the_defaults_hold() -> None:
    assert load_args({}, {}) == ServerArgs()
    args = ServerArgs()
    assert (args.host, args.port, args.max_completed_jobs) == ("127.0.0.1", 50051, 1000)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 1\nmax_queued_jobs: 2\nmax_watches: 3\n")
    environ = {"LMMS_EVAL_GRPC_MAX_QUEUED_JOBS": "20", "LMMS_EVAL_GRPC_MAX_WATCHES": "30", "PATH": "/bin"}
    args = load_args(parse("--max-watches", "300"), environ, file)
    assert (args.port, args.max_queued_jobs, args.max_watches) == (1, 20, 300)
    text = describe(args)
    assert f"port = 1  ({file}, key 'port')" in text
    assert "max_queued_jobs = 20  (environment variable LMMS_EVAL_GRPC_MAX_QUEUED_JOBS)" in text
    assert "max_watches = 300  (flag --max-watches)" in text
    assert "host = 127.0.0.1\n" in text


def test_every_setting_can_be_given_in_each_way(tmp_path: Path) -> None:
    values = {
        "host": "::1",
        "port": 1234,
        "unix_socket": tmp_path / "socket",
        "tls_cert": tmp_path / "server.pem",
        "tls_key": tmp_path / "server.key",
        "tls_client_ca": tmp_path / "ca.pem",
        "allow_insecure_remote": True,
        "access_file": tmp_path / "access",
        "audit_log": tmp_path / "audit",
        "max_submit_priority": 3,
        "state_dir": tmp_path / "state",
        "temp_dir_prefix": "lmms_eval_",
        "max_completed_jobs": 5,
        "finished_job_ttl": 3600.0,
        "max_attempts": 3,
        "heartbeat_timeout": 30.0,
        "stall_timeout": 1800.0,
        "max_queued_jobs": 6,
        "max_watches": 7,
        "max_watches_per_client": 8,
        "max_watches_per_principal": 9,
        "max_jobs_per_principal": 10,
        "max_submissions_per_minute": 11,
        "max_stream_bytes_per_second": 12_000,
        "unary_timeout": 13.0,
        "max_request_bytes": 70_000,
        "include_path": (tmp_path / "a", tmp_path / "b"),
        "devices": ("cuda:0", "cuda:1"),
        "executor": "ray",
        "ray_address": "10.0.0.1:6379",
        "ray_cpu_slots": 2,
        "ray_lease": 10.0,
        "ray_idle_timeout": 0.0,
        "torch_threads": 2,
        "use_template": False,
        "prepare_next": False,
        "keep_model_warm": 30.0,
        "track": ("tensorboard:/runs", "wandb:team/digits"),
        "trust_remote_code": True,
        "checkpoint_root": (tmp_path / "c", tmp_path / "d"),
        "output_root": (tmp_path / "e",),
        "checkpoint_schemes": ("s3", "gs"),
        "allowed_api_hosts": ("localhost", "10.0.0.1:8000"),
        "allow_task_files": True,
        "allow_server_args": True,
        "allow_lmms_eval_models": True,
        "shutdown_grace": 0.5,
        "address_file": tmp_path / "address",
        "log_level": "debug",
        "log_format": "json",
        "metrics_port": 9464,
        "metrics_host": "::1",
        "otlp_endpoint": "http://127.0.0.1:4318",
    }
    assert set(values) == {setting.name for setting in settings()}
    expected = ServerArgs(**values)  # type: ignore[arg-type]

    flags: list[str] = []
    environ: dict[str, str] = {}
    lines: list[str] = []
    for setting in settings():
        value = values[setting.name]
        many = [str(item) for item in value] if isinstance(value, tuple) else [str(value)]
        if isinstance(value, bool):
            flags.append(setting.flag if value else setting.flag.replace("--", "--no-"))
        else:
            flags += [part for item in many for part in (setting.flag, item)]
        environ[setting.variable] = (":" if setting.kind is Path else ",").join(many)
        quoted = [str(value).lower() if isinstance(value, bool | int | float) else f'"{item}"' for item in many]
        lines.append(
            f"{setting.name} = [{', '.join(quoted)}]" if isinstance(value, tuple) else f"{setting.name} = {quoted[0]}"
        )
    file = tmp_path / "server.toml"
    file.write_text("\n".join(lines))
    assert load_args(parse(*flags), {}) == expected
    assert load_args({}, environ) == expected
    assert load_args({}, {}, file) == expected


def test_the_flag_for_the_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('max-queued-jobs = 9\ninclude_path = "/tasks"\n')
    args = load_args(parse("--config", str(file)), {})
    assert args.max_queued_jobs == 9
    assert args.include_path == (Path("/tasks"),)


def test_an_unknown_key_names_the_closest_and_lists_the_valid_ones(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("prot: 1\n")
    with pytest.raises(ConfigError, match=r"unknown key 'prot'; did you mean 'port'\?.*max_completed_jobs"):
        load_args({}, {}, file)
    with pytest.raises(ConfigError, match="unknown flag --state-dri; did you mean 'state_dir'"):
        load_args({"state_dri": "x"}, {})


def test_all_that_is_wrong_is_told_at_once_and_where(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("max_jobs_per_principal: two\nbogus: 1\nport: 99999999\n")
    with pytest.raises(ConfigError) as caught:
        load_args({"shutdown_grace": "long"}, {"LMMS_EVAL_GRPC_LOG_LEVEL": "loud"}, file)
    assert all(problem.startswith(str(file)) for problem in caught.value.problems[:3])
    words = ("'two'", "'bogus'", "99999999", "LMMS_EVAL_GRPC_LOG_LEVEL: 'loud'", "flag --shutdown-grace: 'long'")
    for word, problem in zip(words, caught.value.problems, strict=True):
        assert word in problem
        assert problem in str(caught.value)


def test_an_environment_variable_that_is_nearly_a_setting_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    load_args({}, {"LMMS_EVAL_GRPC_SATE_DIR": "x", "LMMS_EVAL_GRPC_ADDRESS": "host:1"})
    assert "did you mean LMMS_EVAL_GRPC_STATE_DIR" in caplog.text
    assert "LMMS_EVAL_GRPC_ADDRESS " not in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port: many", r"key 'port': 'many' is not a whole number"),
        ("port: true", r"key 'port': True is not a whole number"),
        ("port: 70000", r"key 'port': 70000 must be at most 65535"),
        ("finished_job_ttl: 0", r"key 'finished_job_ttl': 0.0 must be more than 0"),
        ("heartbeat_timeout: 2", r"key 'heartbeat_timeout': 2.0 must be at least 5"),
        ("shutdown_grace: .nan", r"key 'shutdown_grace': nan is not a number"),
        ("use_template: 1", r"key 'use_template': 1 is not true or false"),
        ("log_level: loud", r"key 'log_level': 'loud' is not one of debug, info"),
        ("include_path: 7", r"key 'include_path': 7 is not a list of paths"),
        ("devices: []", r"key 'devices': must not be empty"),
        ("- a list", r"must hold settings by name"),
        ("port: [", r"not YAML"),
    ],
)
def test_a_wrong_value_in_a_file_is_named_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_args({}, {}, file)
    assert str(file) in str(caught.value)


def test_a_wrong_value_names_its_flag_or_its_variable() -> None:
    with pytest.raises(ConfigError, match=r"flag --max-watches: 'x' is not a whole number"):
        load_args(parse("--max-watches", "x"), {})
    with pytest.raises(
        ConfigError, match=r"environment variable LMMS_EVAL_GRPC_USE_TEMPLATE: 'maybe' is not true or false"
    ):
        load_args({}, {"LMMS_EVAL_GRPC_USE_TEMPLATE": "maybe"})
    with pytest.raises(ConfigError, match=r"port: 65536 must be at most 65535"):
        ServerArgs(port=65536)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_args({}, {}, tmp_path / "none.yaml")
    (tmp_path / "settings.ini").touch()
    with pytest.raises(ConfigError, match=r"must end in \.yaml"):
        load_args({}, {}, tmp_path / "settings.ini")


def test_an_optional_setting_can_be_unset_again(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("finished_job_ttl: 5\ntorch_threads: 2\n")
    args = load_args({"finished_job_ttl": "none"}, {"LMMS_EVAL_GRPC_TORCH_THREADS": ""}, file)
    assert args.finished_job_ttl is None
    assert args.torch_threads is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_permission(host: str) -> None:
    ServerArgs(host=host).check_exposure()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu-box", ""])
def test_an_address_that_others_reach_needs_permission(host: str) -> None:
    remedies = r"can be reached from other machines, .* in the clear.*tls_cert.*127\.0\.0\.1.*allow_insecure_remote"
    with pytest.raises(ConfigError, match=remedies):
        ServerArgs(host=host).check_exposure()
    ServerArgs(host=host, allow_insecure_remote=True).check_exposure()
    ServerArgs(host=host, unix_socket=Path("/run/socket")).check_exposure()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "gpu-box"])
def test_encryption_alone_does_not_tell_who_calls(host: str) -> None:
    encrypted = {"host": host, "tls_cert": Path("/c"), "tls_key": Path("/k")}
    with pytest.raises(ConfigError, match=r"prove who they are.*tls_client_ca.*127\.0\.0\.1.*allow_insecure_remote"):
        load_args(encrypted, {}).check_exposure()
    load_args({**encrypted, "allow_insecure_remote": True}, {}).check_exposure()
    args = load_args({**encrypted, "tls_client_ca": Path("/ca")}, {})
    args.check_exposure()
    assert authenticates_callers(args)
    ServerArgs(tls_cert=Path("/c"), tls_key=Path("/k")).check_exposure()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls_cert": "/c"}, "flag --tls-cert: needs tls_key too"),
        ({"tls_key": "/k"}, "flag --tls-key: needs tls_cert too"),
        ({"tls_client_ca": "/ca"}, "flag --tls-client-ca: needs tls_cert and tls_key too"),
        ({"tls_cert": "/c", "tls_key": "/k", "unix_socket": "/s"}, "flag --tls-cert: has no effect with unix_socket"),
    ],
)
def test_tls_by_halves_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_args(given, {}).check_exposure()


def test_every_setting_is_documented() -> None:
    for setting in settings():
        assert len(setting.rules["help"]) > 10, setting.name

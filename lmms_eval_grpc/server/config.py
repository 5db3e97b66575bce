"""The server's settings: one dataclass, from which flags, environment variables and file keys derive.

Precedence: flags, then the environment (``LMMS_EVAL_GRPC_<FIELD>``), then the configuration file, then the defaults.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lmms_eval_grpc.server import exposure
from lmms_eval_grpc.server.settings import ConfigError, Setting, describe_field

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
EXECUTORS = ("local", "ray")


@dataclass(frozen=True, slots=True)
class ServerArgs:
    """Settings of one server. ``host``, ``port``, ``max_completed_jobs`` and ``temp_dir_prefix`` are lmms-eval's names.

    Raises:
        ConfigError: a value has the wrong type or lies out of range.
    """

    # Where the server listens.
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on. Others than loopback need TLS, and callers who prove who they are."},
    )
    port: int = field(
        default=50051,
        metadata={"help": "TCP port to listen on; 0: any free one.", "minimum": 0, "maximum": 65535},
    )
    unix_socket: Path | None = field(
        default=None,
        metadata={"help": "Listen on this Unix socket instead of host and port."},
    )
    tls_cert: Path | None = field(
        default=None,
        metadata={
            "help": "PEM file with the server's certificate, its intermediates behind it: the server speaks TLS."
            " Read again when it changes."
        },
    )
    tls_key: Path | None = field(
        default=None,
        metadata={
            "help": "PEM file with the private key of tls_cert, without a passphrase. Read again when it changes."
        },
    )
    tls_client_ca: Path | None = field(
        default=None,
        metadata={
            "help": "PEM file with the authorities whose certificates callers may show; one is then required of every"
            " caller. Read again when it changes."
        },
    )
    allow_insecure_remote: bool = field(
        default=False,
        metadata={
            "help": "Allow a host that other machines can reach without TLS, or without callers who prove who they are:"
            " whoever reaches it can run code."
        },
    )
    address_file: Path | None = field(
        default=None,
        metadata={"help": "File to write the server's address to once it is ready."},
    )

    # Who may call.
    access_file: Path | None = field(
        default=None,
        metadata={
            "help": "File that says who may do what, written by lmms-eval-grpc token. Unset: whoever reaches the server"
            " may do everything."
        },
    )
    audit_log: Path | None = field(
        default=None,
        metadata={"help": "File to append a line of JSON to for everything that callers change, and are refused."},
    )
    max_submit_priority: int = field(
        default=10,
        metadata={
            "help": "Largest priority that a caller may give a job without the role admin.",
            "minimum": -1000,
            "maximum": 1000,
        },
    )

    # What requests may touch.
    checkpoint_root: tuple[Path, ...] = field(
        default=(),
        metadata={
            "help": "Folder that requests may read from: checkpoints, files that arguments name, baselines, tasks; may"
            " be repeated. Unset: any."
        },
    )
    output_root: tuple[Path, ...] = field(
        default=(),
        metadata={
            "help": "Folder that requests may write to, and read from: results, caches, merged checkpoints,"
            " TensorBoard; may be repeated. Unset: any."
        },
    )
    checkpoint_schemes: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Scheme of URLs by which checkpoints may be named, such as s3; may be repeated. Unset: any that"
            " fsspec knows; with a checkpoint_root, those of remote stores."
        },
    )
    allowed_api_hosts: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Host, or host:port, of a server that requests may have models asked at (base_url); may be"
            " repeated. Unset: any."
        },
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Let requests ask for Python code that comes with a checkpoint to be run."},
    )
    allow_task_files: bool = field(
        default=False,
        metadata={"help": "Let requests bring folders and files of tasks, whose Python code then runs here."},
    )
    allow_server_args: bool = field(
        default=False,
        metadata={
            "help": "Let requests add to the command lines of inference servers (server_args), which can name code."
        },
    )
    allow_lmms_eval_models: bool = field(
        default=False,
        metadata={
            "help": "Let requests use the backends of an installed lmms-eval, of which many run code of checkpoints."
        },
    )

    # Limits.
    max_queued_jobs: int = field(
        default=1000,
        metadata={"help": "Jobs that may wait at once.", "minimum": 1},
    )
    max_jobs_per_principal: int | None = field(
        default=None,
        metadata={
            "help": "Jobs of one principal that may wait or run at once; unset: no bound but max_queued_jobs.",
            "minimum": 1,
        },
    )
    max_submissions_per_minute: int | None = field(
        default=None,
        metadata={
            "help": "Jobs that one principal may submit in a minute, in bursts of as many; unset: no bound.",
            "minimum": 1,
        },
    )
    max_watches: int = field(
        default=10_000,
        metadata={"help": "Streams that may be open at once.", "minimum": 1},
    )
    max_watches_per_client: int = field(
        default=5_000,
        metadata={"help": "Streams that one client address may have open at once.", "minimum": 1},
    )
    max_watches_per_principal: int | None = field(
        default=None,
        metadata={
            "help": "Streams that one principal may have open at once; unset: no bound but that of its address.",
            "minimum": 1,
        },
    )
    max_stream_bytes_per_second: int | None = field(
        default=None,
        metadata={
            "help": "Bytes per second that one stream of samples or of a log gets; unset: no bound.",
            "minimum": 1024,
        },
    )
    max_request_bytes: int = field(
        default=8 * 1024 * 1024,
        metadata={"help": "Bytes of the largest request.", "minimum": 65_536},
    )
    unary_timeout: float | None = field(
        default=30.0,
        metadata={"help": "Seconds after which a call that is no stream is cut off; none: never.", "above": 0},
    )

    # State.
    state_dir: Path | None = field(
        default=None,
        metadata={
            "help": "Folder of the job store and the jobs' files, for one server at a time."
            " Unset: lmms-eval-grpc below $XDG_STATE_HOME or ~/.local/state."
        },
    )
    temp_dir_prefix: str = field(
        default="",
        metadata={
            "help": "When set and state_dir is not: keep the state in a new temporary folder whose name starts so;"
            " it is removed with all jobs when the server stops."
        },
    )
    max_completed_jobs: int = field(
        default=1000,
        metadata={"help": "Finished jobs that are kept; the oldest are removed first.", "minimum": 1},
    )
    finished_job_ttl: float | None = field(
        default=None,
        metadata={"help": "Seconds after which a finished job is removed; unset: never by age.", "above": 0},
    )

    # Jobs.
    include_path: tuple[Path, ...] = field(
        default=(),
        metadata={"help": "Folder with task YAML files, beside those that ship; may be repeated."},
    )
    track: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Tracker that is told every evaluation's results: tensorboard:FOLDER, wandb:PROJECT or"
            " mlflow:EXPERIMENT; may be repeated."
        },
    )
    devices: tuple[str, ...] = field(
        default=("auto",),
        metadata={
            "help": "Device to run jobs on, such as cuda:0; may be repeated, cpu too. auto: every GPU, or the CPU.",
            "minimum_length": 1,
        },
    )
    torch_threads: int | None = field(
        default=None,
        metadata={"help": "Threads that torch may use in each worker; unset: its own choice.", "minimum": 1},
    )
    use_template: bool = field(
        default=True,
        metadata={
            "help": "Fork workers from a process that has imported torch once; off: start each from nothing, slowly."
        },
    )
    prepare_next: bool = field(
        default=True,
        metadata={"help": "Prepare the next job's tasks, data and processor on the CPU while a job runs."},
    )
    keep_model_warm: float | None = field(
        default=None,
        metadata={
            "help": "Seconds for which a completed job's model stays on its device, for a next job with the same model"
            " or another checkpoint of it; unset or 0: it is freed at once.",
            "minimum": 0,
        },
    )
    max_attempts: int = field(
        default=5,
        metadata={
            "help": "Times that the server, or a job's machine, may die while the job runs before the job is taken for"
            " the cause and fails.",
            "minimum": 1,
        },
    )
    heartbeat_timeout: float | None = field(
        default=120.0,
        metadata={
            "help": "Seconds without a sign of life after which a worker counts as hung and is killed; none: never.",
            "minimum": 5,  # a healthy one gives a sign every two seconds
        },
    )
    stall_timeout: float | None = field(
        default=None,
        metadata={
            "help": "Seconds without progress (a sample answered or scored, a stage entered, a mebibyte read) after"
            " which a worker counts as hung and is killed, where the job names no bound; unset: never.",
            "above": 0,
        },
    )
    shutdown_grace: float = field(
        default=5.0,
        metadata={
            "help": "Seconds that running jobs and open calls get after the first signal. A job that needs longer"
            " continues at the next start.",
            "minimum": 0,
        },
    )

    # Ray.
    executor: str = field(
        default="local",
        metadata={"help": "Where jobs run: local: here; ray: in a Ray cluster.", "choices": EXECUTORS},
    )
    ray_address: str = field(
        default="",
        metadata={
            "help": "Cluster to run jobs in: auto, host:port or ray://host:port."
            " Unset: one that is started here and ends with the server."
        },
    )
    ray_cpu_slots: int | None = field(
        default=None,
        metadata={
            "help": "Jobs that a node without GPUs runs at once. Unset: one in a cluster without any GPU, else none.",
            "minimum": 0,
        },
    )
    ray_lease: float = field(
        default=20.0,
        metadata={
            "help": "Seconds after which a node that is cut off has ended its job, which then goes on elsewhere.",
            "minimum": 3,
        },
    )
    ray_idle_timeout: float = field(
        default=30.0,
        metadata={
            "help": "Seconds for which a finished job's GPUs, and its imports, are kept for the next job before Ray has"
            " them back.",
            "minimum": 0,
        },
    )

    # Observing.
    log_level: str = field(
        default="info",
        metadata={"help": "Least severity that is logged.", "choices": LOG_LEVELS},
    )
    log_format: str = field(
        default="text",
        metadata={"help": "Form of the log's lines; json: one object per line.", "choices": LOG_FORMATS},
    )
    metrics_port: int | None = field(
        default=None,
        metadata={
            "help": "TCP port of the Prometheus metrics, over HTTP; 0: any free one; unset: there are none.",
            "minimum": 0,
            "maximum": 65535,
        },
    )
    metrics_host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address of the metrics. Whoever reaches it can read them: counts, but no names of jobs."},
    )
    otlp_endpoint: str = field(
        default="",
        metadata={
            "help": "URL of an OpenTelemetry collector that takes traces over HTTP, such as http://127.0.0.1:4318."
            " Unset: what OTEL_EXPORTER_OTLP_ENDPOINT says, else no traces."
        },
    )

    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each setting that :func:`load_args` found came from; not a setting itself."""

    def __post_init__(self) -> None:
        for setting in settings():
            value = setting.check(getattr(self, setting.name), self.sources.get(setting.name) or setting.name)
            object.__setattr__(self, setting.name, value)

    def check_executor(self) -> None:
        """Raises :class:`ConfigError` when something is set that only the other executor heeds."""
        by_name = {setting.name: setting for setting in settings()}
        foreign = (
            ("devices", "keep_model_warm")
            if self.executor == "ray"
            else tuple(name for name in by_name if name.startswith("ray_"))
        )
        for name in foreign:
            value = getattr(self, name)
            if value != by_name[name].default:
                remedy = f"or set executor to {'local' if self.executor == 'ray' else 'ray'}"
                raise ConfigError(
                    f"{self.sources.get(name, name)}: {value!r} has no effect with executor {self.executor};"
                    f" leave it out, {remedy}"
                )

    def check_exposure(self) -> None:
        """Raises :class:`ConfigError` when the server could be reached, or would be protected, in a way that nobody can
        have meant; :mod:`lmms_eval_grpc.server.exposure` has the rules."""
        exposure.check(self)


@functools.cache
def settings() -> tuple[Setting, ...]:
    """Every setting, in the dataclass's order."""
    hints = typing.get_type_hints(ServerArgs)
    return tuple(
        describe_field(item, hints[item.name]) for item in dataclasses.fields(ServerArgs) if "help" in item.metadata
    )

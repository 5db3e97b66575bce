"""Where ``eval`` keeps the run log of an evaluation that has not ended yet, so that running it again goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.exhaustion import is_disk_full

UNFINISHED = ".unfinished"
"""The folder of run folders, in the output folder."""
_LOCK = "lock"

_CHANGES_NO_ANSWER = (
    "batch_size", "max_batch_size", "device", "num_gpus", "output_dir", "resolved_cli_args", "timezone",
    "bootstrap_iters", "log_samples_suffix", "max_error_share", "max_tokens", "baseline", "use_cache",
    "stall_timeout",
)  # fmt: skip
"""What a user may change and go on: neither the machine, nor how much is borne and spent, changes an answer."""


@contextlib.contextmanager
def run_folder(config: EvaluationConfig) -> Iterator[Path]:
    """The evaluation's run folder, this process's alone; removed once the block has ended without an exception,
    or with nothing in it.

    It is below the output folder and named by the configuration, so that the same evaluation finds it again. Without an
    output folder it is a temporary one, which is removed in any case. Raises UsageError where another process has it.
    """
    if config.output_dir is None:
        with tempfile.TemporaryDirectory(prefix="lmms-eval-grpc-") as folder:
            yield Path(folder)
        return
    folder_of_all = config.output_dir / UNFINISHED
    run_dir = folder_of_all / digest(config)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / _LOCK).open("w")
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UsageError(f"--output_path {config.output_dir}: cannot be written to: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process runs this evaluation into {config.output_dir}; wait for it, or name another "
                "--output_path"
            ) from None
        try:
            yield run_dir
        except BaseException:
            if all(item.name == _LOCK for item in run_dir.iterdir()):  # nothing was answered
                _remove(run_dir)
            raise
        _remove(run_dir)


def _remove(run_dir: Path) -> None:
    shutil.rmtree(run_dir, ignore_errors=True)
    with contextlib.suppress(OSError):  # another evaluation is unfinished
        run_dir.parent.rmdir()


def digest(config: EvaluationConfig) -> str:
    """Names the evaluation: of everything that it computes, not of how and where."""
    fields = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in _CHANGES_NO_ANSWER
    }
    fields["compat"] = sorted(config.compat)
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]

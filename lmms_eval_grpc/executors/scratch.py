"""A worker's temporary files: in its job's folder, so that nothing of them is left, however the worker came to its end.

``TMPDIR`` names the folder, also for all programs that the worker starts. Programs put Unix sockets there, whose paths
may have 107 bytes; where the job's folder lies too deep for that, ``TMPDIR`` is a short link to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

_LOG = logging.getLogger(__name__)

FOLDER = "tmp"
"""In the job's folder."""
MERGED_CHECKPOINT = "merged_checkpoint"
"""Beside it: the checkpoint that an evaluation has merged for its attempts, and only for them; see
``engine.checkpoints.automatic``."""
MACHINE_TMPDIR = "LMMS_EVAL_GRPC_TMPDIR"
"""Environment variable that tells a worker the machine's own folder for temporary files, for what is to outlive it."""
_LONGEST = 70
"""Bytes of a path that leaves room for a socket's name: 37 more, the longest known (vLLM's)."""


def environment(job_dir: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables for the worker of this job."""
    machine = tempfile.gettempdir()
    variables = {"TMPDIR": str(_place(job_dir)), MACHINE_TMPDIR: machine}
    if "TORCHINDUCTOR_CACHE_DIR" not in environ:
        # By default below TMPDIR: every job would compile its kernels anew.
        variables["TORCHINDUCTOR_CACHE_DIR"] = str(Path(machine) / f"torchinductor_{os.getuid()}")
    return variables


def make(job_dir: Path) -> None:
    """Makes what :func:`environment` names, and the job's folder if need be. Raises OSError."""
    folder = _folder(job_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = _place(job_dir)
    if place != folder:
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
        place.symlink_to(folder, target_is_directory=True)


def remove(job_dir: Path) -> None:
    """Removes it with all that is in it; for when no process of the worker is left. Raises nothing."""
    folder = _folder(job_dir)
    place = _place(job_dir)
    try:
        if place != folder and place.is_symlink():
            place.unlink()
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        _LOG.warning("temporary files of job %s stay for now: %s", job_dir.name, error)


def remove_merged(job_dir: Path) -> None:
    """Removes a merged checkpoint, whole or unfinished; for when the job has ended. Raises nothing."""
    for folder in (job_dir / MERGED_CHECKPOINT, job_dir / f".{MERGED_CHECKPOINT}.merging"):
        shutil.rmtree(folder, ignore_errors=True)


def _folder(job_dir: Path) -> Path:
    return job_dir.absolute() / FOLDER


def _place(job_dir: Path) -> Path:
    folder = _folder(job_dir)
    name = os.fsencode(folder)
    if len(name) <= _LONGEST:
        return folder
    return Path(tempfile.gettempdir()) / f"lmms-eval-grpc-{hashlib.sha256(name).hexdigest()[:16]}"

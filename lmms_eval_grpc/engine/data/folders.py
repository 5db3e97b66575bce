"""Where data lie on this machine: the Hugging Face home, the datasets cache, and folders that tasks name."""

from __future__ import annotations

import getpass
import logging
import os
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)

_NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "cifs", "gpfs", "lustre", "orangefs", "panfs", "pvfs2"}
    | {f"fuse.{name}" for name in ("ceph", "sshfs", "rclone", "s3fs", "goofys", "gcsfuse")}
)
_NETWORK_PREFIXES = ("nfs", "smb", "ceph")


def hugging_face_home() -> Path:
    """``$HF_HOME``, by default ``huggingface`` in the user's cache folder. Tasks look for their videos below it."""
    usual = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(os.path.expandvars(os.environ.get("HF_HOME") or usual)).expanduser()


def task_folder(name: str) -> Path:
    """The folder that ``dataset_kwargs.cache_dir`` of a task with videos means; relative to the Hugging Face home."""
    return hugging_face_home() / Path(os.path.expandvars(name)).expanduser()


def datasets_cache() -> Path | None:
    """Where the datasets library is to keep prepared data; None leaves it to the library.

    ``$LMMS_EVAL_DATASETS_CACHE`` if set. Else the library's own place, unless that is on a network file system, where
    its memory-mapped files are slow: then a folder on the local disk.
    """
    chosen = os.environ.get("LMMS_EVAL_DATASETS_CACHE")
    if chosen:
        return Path(os.path.expandvars(chosen)).expanduser()
    usual = Path(os.environ.get("HF_DATASETS_CACHE") or hugging_face_home() / "datasets")
    if not is_on_network(usual):
        return None
    # A job's TMPDIR goes with the job.
    scratch = Path(os.environ.get("LMMS_EVAL_GRPC_TMPDIR") or tempfile.gettempdir())
    if is_on_network(scratch):
        _log.warning("the datasets cache %s is on a network file system; set LMMS_EVAL_DATASETS_CACHE", usual)
        return None
    return scratch / "lmms_eval_hf_datasets" / getpass.getuser()


def is_on_network(path: Path, mounts: str | None = None) -> bool:
    """Whether ``path`` lies on a network file system, by the kernel's table of mounts; False where there is none.

    ``mounts`` is the text of that table, for tests.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
        except OSError:
            return False
    real, best, kind = str(path.expanduser().resolve()), "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        place = fields[1].replace("\\040", " ")
        if (real == place or real.startswith(place.rstrip("/") + "/")) and len(place) >= len(best):
            best, kind = place, fields[2]
    return kind in _NETWORK_FILE_SYSTEMS or kind.startswith(_NETWORK_PREFIXES)

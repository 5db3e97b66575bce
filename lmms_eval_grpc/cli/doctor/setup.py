"""What is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.server.config import ServerArgs
from lmms_eval_grpc.server.state_dir import locate_state_dir


@dataclass(frozen=True, slots=True)
class Setup:
    """A server's settings, and what it would be started in."""

    args: ServerArgs
    environ: Mapping[str, str]

    @property
    def state_dir(self) -> Path:
        """The folder that the server would use. It may not exist."""
        return locate_state_dir(self.args, self.environ)


def mebibytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"

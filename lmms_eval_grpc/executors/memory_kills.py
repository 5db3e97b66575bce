"""How often the kernel has killed for want of memory, by its own count: evidence of why a worker is dead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryKills:
    """Counts up to one moment; None where the kernel does not tell."""

    group: int | None
    """In this process's control group, in which its workers are too."""
    machine: int | None
    """On the whole machine, other containers included."""

    def more_than(self, earlier: MemoryKills) -> bool:
        """Whether the kernel has killed since, as far as is known. The group's count decides where there is one: the
        machine's rises for anybody's process."""
        if self.group is not None and earlier.group is not None:
            return self.group > earlier.group
        return self.machine is not None and earlier.machine is not None and self.machine > earlier.machine

    @property
    def known(self) -> bool:
        """Whether the kernel tells at all."""
        return self.group is not None or self.machine is not None


def count_memory_kills(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> MemoryKills:
    """The counts now. Reads three small files and never fails."""
    return MemoryKills(_in_group(proc, cgroups), _find(proc / "vmstat"))


def _in_group(proc: Path, cgroups: Path) -> int | None:
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            roots, name = [cgroups, cgroups / "unified"], "memory.events"
        elif "memory" in controllers.split(","):
            roots, name = [cgroups / "memory"], "memory.oom_control"
        else:
            continue
        for root in roots:
            # Inside a container the group may be mounted where the root usually is.
            for folder in (root / group.lstrip("/"), root):
                if (count := _find(folder / name)) is not None:
                    return count
    return None


def _find(path: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(encoding="ascii"), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return int(found[1]) if found else None

"""What tasks there are: names, kinds and files, from a scan of folders that runs no task's code.

Light: needs PyYAML and the standard library only, so that a server can answer for its tasks in milliseconds.
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lmms_eval_grpc.engine.packages import lmms_eval_folder
from lmms_eval_grpc.engine.tasks.index_cache import FolderCache, default_cache_folder, stamp_of
from lmms_eval_grpc.engine.tasks.index_files import TaskFile, read_task_file
from lmms_eval_grpc.engine.tasks.sources import OWN_FOLDER, plugin_folders
from lmms_eval_grpc.engine.tasks.yaml_loader import TaskFileError, YamlReader

Kind = Literal["task", "group", "tag", "python_task"]

DEFAULT_FOLDER = OWN_FOLDER
"""The tasks that ship with the package."""

MAX_ENTRIES = 20_000
"""Files and folders that there may be below all folders of an index; lmms-eval has a sixth of that. Whoever names ``/``
by mistake must not have all disks read."""
TOO_MANY = (
    f"is not looked through: there are more than {MAX_ENTRIES} files and folders below the folders of tasks; name one"
    " that holds tasks only"
)

_LONGEST_REASON = 2000
"""Characters. A reason may show a value of the file, which may be all of the file."""
_SKIPPED_FOLDERS = frozenset({"__pycache__", ".ipynb_checkpoints"})


def is_task_file(name: str) -> bool:
    """Whether ``name``, where a task is asked for, is meant as the path of a YAML file."""
    return name.endswith((".yaml", ".yml"))


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """One name that an evaluation may ask for."""

    name: str
    kind: Kind
    output_type: str = ""
    """How the model is asked, e.g. ``generate_until``; empty for groups and tags."""
    description: str = ""
    """From the file's ``metadata.description``; empty where there is none."""
    members: tuple[str, ...] = ()
    """Names directly below a group or a tag, in their order; empty for tasks."""
    source: str | None = None
    """The YAML file; None for tags, which many files make together."""
    tags: tuple[str, ...] = ()
    """Tags that a task carries."""


@dataclass(frozen=True, slots=True)
class IndexProblem:
    """A file or folder that the index could not use as it is; the scan goes on without it."""

    path: Path
    """That of no file, ``Path()``, for a plug-in that names no folder."""
    reason: str
    unread: bool = True
    """Whether it may declare names that are not in the index."""

    def __str__(self) -> str:
        return self.reason if self.path == Path() else f"{self.path}: {self.reason}"


class TaskIndex:
    """The tasks of some folders, by name. Made by :meth:`open` or :meth:`scan`; does not change afterwards."""

    def __init__(
        self,
        entries: Mapping[str, TaskEntry],
        groups: Mapping[str, Mapping[str, Any]],
        problems: Sequence[IndexProblem],
        given: Sequence[Path] = (),
    ) -> None:
        """``given``: the include paths among the folders that were looked through."""
        self._entries = {name: entries[name] for name in sorted(entries)}
        self._groups = dict(groups)
        self._problems = tuple(problems)
        self._given = tuple(given)

    @classmethod
    def open(
        cls,
        include_paths: Sequence[Path] = (),
        include_defaults: bool = True,
        *,
        override: bool = False,
        cache_folder: Path | None = None,
    ) -> TaskIndex:
        """:meth:`scan`, but files that did not change since an earlier scan are not read again.

        ``cache_folder`` defaults to :func:`~.index_cache.default_cache_folder`.
        """
        return cls._build(include_paths, include_defaults, override, cache_folder or default_cache_folder())

    @classmethod
    def scan(
        cls, include_paths: Sequence[Path] = (), include_defaults: bool = True, *, override: bool = False
    ) -> TaskIndex:
        """Reads every ``*.yaml`` below the default folders (if ``include_defaults``) and each include path.

        The default folders are the package's own benchmarks, those of plug-ins, and an installed lmms-eval's tasks.
        Folders are walked in sorted order, so that two machines agree. Where two files claim one name, the first folder
        wins, or with ``override`` the last; within a folder the first file. The loser is listed by :meth:`problems`,
        unless it is lmms-eval's own version of a task that ships with this package. A later folder adds nothing to a
        tag of an earlier one. A folder that does not exist is a problem too, not an error.
        """
        return cls._build(include_paths, include_defaults, override, None)

    @classmethod
    def _build(
        cls, include_paths: Sequence[Path], include_defaults: bool, override: bool, cache_folder: Path | None
    ) -> TaskIndex:
        scan = _Scan(cache_folder)
        given = [Path(path).expanduser().absolute() for path in include_paths]
        folders = [*(scan.default_folders() if include_defaults else ()), *((path, False) for path in given)]
        for folder, quiet in reversed(folders) if override else folders:
            scan.add_folder(folder, quiet)
        return cls(scan.entries, scan.groups, scan.problems, given)

    def entries(self) -> tuple[TaskEntry, ...]:
        """All entries, sorted by name."""
        return tuple(self._entries.values())

    def get(self, name: str) -> TaskEntry | None:
        return self._entries.get(name)

    def closest(self, name: str, n: int = 3) -> tuple[str, ...]:
        """At most ``n`` known names that resemble ``name``, the best first; for "did you mean"."""
        lower = {known.lower(): known for known in reversed(self._entries)}
        # ocr is like ocrbench (0.545), and nada not like ai2d (0.5).
        return tuple(lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=n, cutoff=0.54))

    def problems(self) -> tuple[IndexProblem, ...]:
        return self._problems

    def is_given(self, path: Path) -> bool:
        """Whether ``path`` is one of the include paths, or below one."""
        return any(path.is_relative_to(folder) for folder in self._given)

    def group_config(self, name: str) -> Mapping[str, Any]:
        """The YAML mapping of group ``name``. Raises KeyError for any other name."""
        return self._groups[name]

    def expand(self, name: str) -> tuple[str, ...]:
        """The tasks that ``name`` stands for: itself, the leaves of a group or tag, or all matches of a pattern.

        In order (patterns: sorted by name), each task once. Empty when nothing of that name is known.
        """
        found: dict[str, None] = {}
        for match in self.matches(name):
            self._add_leaves(match, found, set())
        return tuple(found)

    def matches(self, name: str) -> tuple[str, ...]:
        """``name`` itself if it is known, else the known names that it matches as a pattern, sorted."""
        if name in self._entries:
            return (name,)
        if not any(sign in name for sign in "*?["):
            return ()
        return tuple(fnmatch.filter(self._entries, name))

    def _add_leaves(self, name: str, found: dict[str, None], above: set[str]) -> None:
        entry = self._entries.get(name)
        if entry is None or name in above:
            return
        if entry.kind in ("task", "python_task"):
            found[name] = None
        for member in entry.members:
            self._add_leaves(member, found, above | {name})


class _Scan:
    """One scan under way."""

    def __init__(self, cache_folder: Path | None) -> None:
        self.entries: dict[str, TaskEntry] = {}
        self.groups: dict[str, Mapping[str, Any]] = {}
        self.problems: list[IndexProblem] = []
        self._cache_folder = cache_folder
        self._reader = YamlReader()
        self._seen: set[tuple[int, int]] = set()
        self._left = [MAX_ENTRIES]

    def default_folders(self) -> Iterator[tuple[Path, bool]]:
        """Each with whether names in it that are taken already are nothing to report."""
        yield OWN_FOLDER, False
        for declared, folder in plugin_folders():
            if folder is not None:
                yield folder, False
            else:
                reason = f"{declared} names no installed package; correct or uninstall the plug-in"
                self.problems.append(IndexProblem(Path(), reason))
        lmms_eval = lmms_eval_folder()
        if lmms_eval is not None:
            yield lmms_eval / "tasks", True

    def add_folder(self, folder: Path, quiet: bool) -> None:
        """Adds what the folder declares to what earlier folders did; ``quiet`` reports no name that they took."""
        if not os.path.isdir(folder):  # noqa: PTH112 - unlike Path's it answers for every text that is no path
            # Who names a folder that is not there is told so.
            self.problems.append(IndexProblem(folder, "no such folder", unread=False))
            return
        cache = FolderCache(self._cache_folder, folder) if self._cache_folder is not None else None
        earlier = dict(self.entries)
        entries: dict[str, TaskEntry] = {}
        try:
            files = list(_yaml_files(folder, self._left))
        except _TooMany:
            self.problems.append(IndexProblem(folder, TOO_MANY))
            return
        for path, status in files:
            place = (status.st_dev, status.st_ino)
            if place in self._seen:
                continue
            self._seen.add(place)
            try:
                file = self._read(path, status, cache)
            except TaskFileError as error:
                reason = str(error).removeprefix(f"{path}: ")[:_LONGEST_REASON]
                self.problems.append(IndexProblem(Path(path), reason))
                continue
            if file.kind:
                self._add_file(path, file, entries, earlier, quiet)
        if cache is not None:
            cache.save()
        self.entries = {**entries, **earlier}

    def _read(self, path: str, status: os.stat_result, cache: FolderCache | None) -> TaskFile:
        if cache is None:
            return read_task_file(self._reader, Path(path))
        stamp = stamp_of(status)
        known = cache.get(path, stamp)
        if known is None:
            known = read_task_file(self._reader, Path(path))
            cache.put(path, stamp, known, self._reader.included_by(Path(path)))
        return known

    def _add_file(
        self, path: str, file: TaskFile, entries: dict[str, TaskEntry], earlier: Mapping[str, TaskEntry], quiet: bool
    ) -> None:
        if file.kind == "":
            return
        taken = earlier.get(file.name) or entries.get(file.name)
        if taken is not None and (taken.kind != "tag" or file.name in earlier):
            owner = taken.source or "the tag of that name"
            if not (quiet and file.name in earlier):
                self._report(
                    path, f"the name {file.name!r} is already taken by {owner}, which is used; rename one of them"
                )
        else:
            entries[file.name] = TaskEntry(
                file.name, file.kind, file.output_type, file.description, file.members, path, file.tags
            )
            if file.kind == "group":
                self.groups[file.name] = file.group_config
        for tag in file.tags:  # also of a file that lost its name: its tags then hold the task that won
            if tag not in earlier:
                _tag_task(tag, file.name, entries)
            elif not quiet:
                self._report(
                    path, f"the tag {tag!r} belongs to an earlier folder; {file.name!r} is not among its tasks"
                )

    def _report(self, path: str, reason: str) -> None:
        self.problems.append(IndexProblem(Path(path), reason, unread=False))


class _TooMany(Exception):
    """A folder has more below it than is looked at."""


def _yaml_files(folder: Path, left: list[int]) -> Iterator[tuple[str, os.stat_result]]:
    """Every YAML file below ``folder``, and its status, in sorted order: a folder's files before its folders.

    ``left`` holds how many files and folders may still be looked at. Raises _TooMany.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as found:
            items = sorted(itertools.islice(found, left[0] + 1), key=lambda item: item.name)
    except OSError:
        return
    left[0] -= len(items)
    if left[0] < 0:
        raise _TooMany
    for item in items:
        if item.name.endswith(".yaml") and not item.is_dir():
            files.append(item)
        elif item.is_dir(follow_symlinks=False) and item.name not in _SKIPPED_FOLDERS:
            folders.append(item)
    for item in files:
        try:
            status = item.stat()
        except OSError:  # a link to nothing
            continue
        if stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            yield item.path, status
    for item in folders:
        yield from _yaml_files(Path(item.path), left)


def _tag_task(tag: str, task: str, entries: dict[str, TaskEntry]) -> None:
    known = entries.get(tag)
    if known is None:
        entries[tag] = TaskEntry(tag, "tag", members=(task,))
    elif known.kind == "tag" and task not in known.members:
        entries[tag] = replace(known, members=(*known.members, task))

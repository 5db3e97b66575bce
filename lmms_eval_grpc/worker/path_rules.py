"""Which paths a request may name: folders that the server's operator allows, symbolic links and ``..`` resolved.

The server asks before it queues a job, and the worker again before it uses the paths. Light: looks at names of files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lmms_eval_grpc.jobs.secrets import SECRETS_FILE

VARIABLE = "LMMS_EVAL_GRPC_PATH_RULES"
"""Environment variable that tells a worker the rules."""
REMOTE_SCHEMES = ("s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "adl", "oci", "oss")
"""Schemes of stores elsewhere, which read nothing of this machine whatever the rest of the URL says."""

_LOCAL_SCHEMES = ("file", "local")
_PATH_STARTS = ("/", "./", "../", "~", "file:", "local:")
_HUB_ID = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_TEMPLATE_FOLDERS = ("chat_templates", "additional_chat_templates")
"""Folders in a checkpoint's, all of whose files are read or copied."""
_MOST_INDEX_BYTES = 64 * 1024 * 1024
_LONGEST_PATH = 4096
"""Bytes of a path that Linux opens, with the one that ends it."""


class Access(Enum):
    """What is done with a path."""

    READ = "checkpoint_root"
    WRITE = "output_root"


@dataclass(frozen=True, slots=True)
class PathRules:
    """What requests may name. Without any rule: every path but the server's own state."""

    checkpoint_roots: tuple[str, ...] = ()
    """Folders to read from. Empty: any."""
    output_roots: tuple[str, ...] = ()
    """Folders to write to, which may be read from too. Empty: any."""
    schemes: tuple[str, ...] = ()
    """Of URLs. Empty: all that fsspec knows; where there are roots, :data:`REMOTE_SCHEMES`."""
    state_dir: str = ""
    """The server's: nothing in it may be written to, and of it only the jobs' folders read. Links are resolved, see
    :meth:`guarding`."""
    jobs_dir: str = ""
    """The jobs' folders' own, links resolved."""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> PathRules:
        """Those that :meth:`environment` has told."""
        told = json.loads(environment.get(VARIABLE) or "{}")
        checkpoints, outputs, schemes = (
            tuple(told.get(name, ())) for name in ("checkpoint_roots", "output_roots", "schemes")
        )
        return cls(checkpoints, outputs, schemes)

    def guarding(self, state_dir: Path, jobs_dir: Path) -> PathRules:
        """These rules for a server with that state. Links in it are resolved once, here: rules are asked often."""
        return dataclasses.replace(self, state_dir=os.path.realpath(state_dir), jobs_dir=os.path.realpath(jobs_dir))

    def environment(self) -> dict[str, str]:
        """Tells a worker all but where the server's state is; nothing where there is no rule."""
        told = dataclasses.asdict(self)
        return {VARIABLE: json.dumps(told)} if self.checkpoint_roots or self.output_roots or self.schemes else {}

    def roots(self, access: Access) -> tuple[str, ...]:
        """Folders that a path must be in; empty: any will do."""
        if access is Access.WRITE:
            return self.output_roots
        return (*self.checkpoint_roots, *self.output_roots) if self.checkpoint_roots else ()

    def path_problem(self, text: str, access: Access, *, results: bool = False) -> str:
        """Why a path may not be named; empty when it may. The same whether or not anything is there.

        Args:
            results: of jobs may be meant, which are in the server's state where a job names no other folder.
        """
        resolved = resolve(text)
        if resolved is None:
            return _refusal(text, access) if self.roots(access) else ""
        if self.state_dir and _is_in(resolved, self.state_dir):
            of_jobs = access is Access.READ and self.jobs_dir and _is_in(resolved, self.jobs_dir)
            if not of_jobs or resolved.name == SECRETS_FILE:
                return f"{_shown(text)} is in the state of the server, which no request may name; use another folder"
            if results:
                return ""
        roots = self.roots(access)
        if roots and not any(_is_within(resolved, root) for root in roots):
            return _refusal(text, access)
        return ""

    def checkpoint_problem(self, text: str, *, in_use: bool = False) -> str:
        """The same of what may be a folder, an id on the hub or a URL. ``in_use``: it is about to be read."""
        if _URL.match(text) or "::" in text:
            return self._url_problem(text)
        if not self.roots(Access.READ):
            return self.path_problem(text, Access.READ) if looks_like_path(text) else ""
        if _HUB_ID.fullmatch(text) and ".." not in text:
            # To the libraries a folder of that name goes before the hub.
            return self.path_problem(text, Access.READ) if in_use and Path(text).exists() else ""
        if not Path(os.path.expanduser(text)).is_absolute():  # noqa: PTH111 - does not fail for an unknown user
            return f"{_shown(text)} is neither an absolute path, nor an id on the hub, nor a URL"
        if problem := self.path_problem(text, Access.READ):
            return problem
        return self.contents_problem(text, in_use=in_use)

    def file_problem(self, text: str, *, in_use: bool = False) -> str:
        """The same of what may be a text or the name of a file with it. To name a file it must look like a path, unless
        there is one of that name where the worker is, which is for it to see."""
        if looks_like_path(text) or self._is_of_server(text):
            return self.path_problem(text, Access.READ)
        if in_use and self.roots(Access.READ) and _is_file(text):
            return self.path_problem(text, Access.READ)
        return ""

    def _is_of_server(self, text: str) -> bool:
        """Whether a relative name is that of a file in the server's state: workers have its working folder, which may
        be that state, so that every text is a name in it."""
        if not self.state_dir or len(text) >= _LONGEST_PATH:
            return False
        resolved = resolve(text)
        if resolved is None or not _is_in(resolved, self.state_dir):
            return False
        return resolved.name == SECRETS_FILE or _is_file(str(resolved))

    def _url_problem(self, url: str) -> str:
        roots = self.roots(Access.READ)
        allowed = self.schemes or (REMOTE_SCHEMES if roots else ())
        for link in url.split("::"):  # as fsspec chains them
            match = _URL.match(link)
            scheme = match[1].lower() if match else ""
            if scheme in _LOCAL_SCHEMES or match is None:
                if scheme and self.schemes and scheme not in self.schemes:
                    return _scheme_refusal(url, scheme, allowed)
                path = link[match.end() :] if match else link
                if problem := self.path_problem(path, Access.READ):
                    return problem
            elif allowed and scheme not in allowed:
                return _scheme_refusal(url, scheme, allowed)
        return ""

    def contents_problem(self, text: str, *, in_use: bool) -> str:
        """Whether a checkpoint's folder, which may be read, leads out of what may be read."""
        folder = resolve(text)
        assert folder is not None
        links = [link for place in (folder, *(folder / name for name in _TEMPLATE_FOLDERS)) for link in links_in(place)]
        named = list(_named_files(folder)) if in_use else []
        for path in (*links, *named):
            if self.path_problem(path, Access.READ):
                return leads_out(text, os.path.relpath(path, folder))
        base = _adapter_base(folder) if in_use else ""
        problem = self.checkpoint_problem(base) if base else ""
        if base and not problem and os.path.exists(base):  # noqa: PTH110 - does not fail for what is no path
            problem = self.path_problem(base, Access.READ)  # a folder here goes before the hub
        return f"the model under the adapter in {_shown(text)}: {problem}" if problem else ""


def resolve(text: str) -> Path | None:
    """The absolute path that ``text`` means, ``~``, ``..`` and links resolved as far as there is something; None: that
    cannot be told."""
    try:
        # At a link that leads to itself, realpath takes what follows a double slash for a path of its own.
        return Path(os.path.realpath(Path(text).expanduser() if "~" in text or "//" in text else text))
    except (RuntimeError, ValueError, OSError):  # a user that nobody knows, a NUL
        return None


def looks_like_path(text: str) -> bool:
    """Whether a string among other settings is most likely a path."""
    return text[:6].lower().startswith(_PATH_STARTS) or ".." in text.split("/")


def strings(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Every string in plain JSON that is no key, with its place."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(item, f"{field}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from strings(item, f"{field}[{index}]")
    elif isinstance(value, str):
        yield field, value


def _is_within(path: Path, root: str) -> bool:
    return _is_in(path, os.path.realpath(root))


def _is_in(path: Path, folder: str) -> bool:
    """Whether a path is the folder or in it; links resolved in both."""
    # Asked at every submission: by strings, in a tenth of the time that path objects take.
    return str(path) == folder or str(path).startswith(f"{folder.rstrip('/')}/")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def leads_out(checkpoint: str, name: str) -> str:
    """What is told of a checkpoint with a file that may not be read."""
    return (
        f"{_shown(checkpoint)} leads out of the folders that this server lets requests read, by its {_shown(name)};"
        " copy what is needed into the checkpoint"
    )


def links_in(folder: Path) -> list[str]:
    """The symbolic links right in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_symlink()]
    except OSError:
        return []  # whoever reads it says why it cannot be


def _named_files(folder: Path) -> Iterator[str]:
    """The files that the indexes of a checkpoint name beyond its folder."""
    for name in _INDEX_FILES:
        index = _read_json(folder / name)
        weights = index.get("weight_map") if isinstance(index, dict) else None
        for file in {str(value) for value in weights.values()} if isinstance(weights, dict) else ():
            if os.path.dirname(file) or file == "..":  # noqa: PTH120 - it may be anything
                yield str(folder / file)


def _adapter_base(folder: Path) -> str:
    """The model that a checkpoint of adapters names, if it is one."""
    settings = _read_json(folder / "adapter_config.json")
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    return base if isinstance(base, str) else ""


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_INDEX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def _refusal(text: str, access: Access) -> str:
    what = "read" if access is Access.READ else "write to"
    return (
        f"{_shown(text)} is in none of the folders that this server lets requests {what}; use one of those, or have its"
        f" operator add one ({access.value})"
    )


def _scheme_refusal(url: str, scheme: str, allowed: tuple[str, ...]) -> str:
    return (
        f"{_shown(url)}: this server takes no {scheme}:// URLs; use {', '.join(allowed)}, or have its operator allow it"
        " (checkpoint_schemes)"
    )


def _shown(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 200 else shown[:199] + "…"

"""What a baseline's name means: files here, files on the hub, or a preset. Light: nothing is read, nothing fetched."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.engine.record.stored import SAMPLES_NAME

PRESETS: Mapping[str, Mapping[str, str]] = {
    "qwen25vl": {
        "videomme_w_subtitle": "hf://mwxely/lmms-eval-test/20251111_202127_samples_videomme_w_subtitle.jsonl",
    },
}
"""Published runs by name and task: Qwen2.5-VL-7B-Instruct is the one that lmms-eval names."""

_HUB = re.compile(
    r"(?:hf://(?:datasets/)?|(?:https?://)?huggingface\.co/datasets/)"
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?:blob|resolve)/(?P<shown>[^/]+))?(?:/(?P<file>.+?))?/?"
)
_HUB_STARTS = ("hf://", "http://", "https://", "huggingface.co/")
_PATH_STARTS = ("/", "./", "../", "~")
_DATE = re.compile(r"(?P<moment>\d{8}_\d{6})(?:-(?P<number>\d+))?$")


class BaselineNameError(ValueError):
    """A baseline's name means nothing; the message says what it may be."""


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A samples file, or a folder with the files of earlier runs."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubSource:
    """Files in a dataset repository of the Hugging Face hub."""

    repo: str
    revision: str | None = None
    file: str | None = None
    """None: the newest run in the repository."""


@dataclass(frozen=True, slots=True)
class PresetSource:
    """A published run."""

    files: Mapping[str, HubSource]
    """By task."""


Source = LocalSource | HubSource | PresetSource


def parse_baseline(name: str) -> Source:
    """``name`` is the path of a samples file or of a folder of results, ``hf://user/repo[@revision][/file]`` (the
    address of a dataset on huggingface.co means the same), ``preset`` or ``preset:task``.

    A preset wins over a file of its name in the working folder; write ``./name`` for that one. Raises BaselineNameError
    for what is none of them, and for paths where nothing is.
    """
    if name.startswith(_HUB_STARTS):
        return _parse_hub(name)
    preset, colon, task = name.partition(":")
    if not names_path(name):
        return _parse_preset(preset, task if colon else None)
    try:
        path = Path(name).expanduser()
        if path.exists():
            return LocalSource(path)
    # A name with a NUL, or longer than a file system takes, or of a user who does not exist.
    except (OSError, ValueError, RuntimeError) as error:
        raise BaselineNameError(f"{name!r} cannot be looked at ({error}); give the path of a samples file") from error
    if name.startswith(_PATH_STARTS) or path.suffix in (".jsonl", ".json") or len(path.parts) > 1:
        raise BaselineNameError(
            f"there is no file or folder {name!r} on the machine that runs the evaluation; give a samples file or a "
            "folder of results by a path that is there"
        )
    close = difflib.get_close_matches(preset, PRESETS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise BaselineNameError(
        f"{name!r} is neither a path, nor hf://user/repo[/file], nor a preset; presets: {', '.join(sorted(PRESETS))}"
        + hint
    )


def names_path(name: str) -> bool:
    """Whether :func:`parse_baseline` takes ``name`` for the path of a file or folder here."""
    return not name.startswith(_HUB_STARTS) and name.partition(":")[0] not in PRESETS


def newest_by_task(paths: Iterable[str]) -> dict[str, str]:
    """Of samples files in lmms-eval's layout, given by their paths, the newest of each task by the date in its name."""
    newest: dict[str, tuple[tuple[str, int, str], str]] = {}
    for path in paths:
        match = SAMPLES_NAME.match(path.rpartition("/")[2])
        if match is None:
            continue
        date = _DATE.search(match["date"])
        age = (date["moment"], int(date["number"] or 1), path) if date else ("", 0, path)
        if match["task"] not in newest or newest[match["task"]][0] < age:
            newest[match["task"]] = (age, path)
    return {task: path for task, (_, path) in newest.items()}


def _parse_hub(name: str) -> HubSource:
    match = _HUB.fullmatch(name)
    if match is None:
        raise BaselineNameError(f"{name!r} does not name files on the hub; write hf://user/repo or hf://user/repo/file")
    return HubSource(match["repo"], match["revision"] or match["shown"], match["file"])


def _parse_preset(preset: str, task: str | None) -> PresetSource:
    files = PRESETS[preset]
    if task is not None and task not in files:
        known = ", ".join(f"{preset}:{name}" for name in sorted(files))
        raise BaselineNameError(f"preset {preset!r} has no baseline of task {task!r}; it has {known}")
    return PresetSource({name: _parse_hub(file) for name, file in files.items() if task in (None, name)})

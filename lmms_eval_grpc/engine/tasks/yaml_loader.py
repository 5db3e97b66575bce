"""Reading a task's YAML file: ``include``, ``!function``, and data files beside it.

Reading runs no task code: ``!function`` becomes a :class:`FunctionReference`, which
:func:`lmms_eval_grpc.engine.tasks.functions.resolve_functions` turns into the function when a task is really built.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmms_eval_grpc.engine.yaml_text import YamlTextError, read_yaml

try:
    from yaml import CSafeLoader as _FastLoader
except ImportError:  # PyYAML built without libyaml: eight times slower, same result
    from yaml import SafeLoader as _FastLoader  # type: ignore[assignment]

PACKAGED_BUILDERS = frozenset({"csv", "json", "parquet", "text", "pandas", "arrow"})
MAX_FILE_BYTES = 16 * 1024 * 1024
"""Of a task file. Something large that is included by mistake is not read to its end."""
_URL_SCHEMES = ("http://", "https://", "s3://", "gs://", "ftp://", "ftps://", "hf://")


class TaskFileError(ValueError):
    """A task's YAML file cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class FunctionReference:
    """A ``!function module.name`` tag: the text after the tag, and the folder of the file that contains it."""

    reference: str
    directory: Path

    def __str__(self) -> str:
        return f"!function {self.reference}"


class _TaskLoader(_FastLoader):
    """Private, so that the ``!function`` tag exists for task files only and not for the whole process."""

    directory: Path


def _construct_function(loader: _TaskLoader, node: yaml.Node) -> FunctionReference:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(
            None, None, "!function takes a name such as utils.doc_to_text", node.start_mark
        )
    return FunctionReference(str(node.value).strip(), loader.directory)


_TaskLoader.add_constructor("!function", _construct_function)


class Included(NamedTuple):
    """A file that another includes."""

    name: str
    """As the YAML file says it."""
    path: Path
    """Where it was found; relative only if that was the working directory."""


class YamlReader:
    """Reads task files, each one once: most files of a benchmark include the same few templates."""

    def __init__(self) -> None:
        self._merged: dict[Path, dict[str, Any]] = {}
        self._included: dict[Path, tuple[Included, ...]] = {}

    def read(self, path: Path) -> dict[str, Any]:
        """The mapping in ``path`` with its ``include`` chain merged in; functions stay :class:`FunctionReference`.

        Keys of the file win over included ones, and of several includes the first listed wins. The merge is shallow:
        ``generation_kwargs`` replaces an included ``generation_kwargs`` as a whole.

        Raises TaskFileError.
        """
        # A shallow copy: the caller may pop keys, nested values are shared and not to be changed.
        return dict(self._read(path, ()))

    def expand(self, values: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """``values``, a mapping inside the file ``path``, with what it includes merged in. Raises TaskFileError."""
        own = dict(values)
        included = _included_paths(path, own.pop("include", None))
        merged = {key: value for one in reversed(included) for key, value in self.read(one.path).items()}
        return _with_absolute_data_files({**merged, **own}, path.parent)

    def included_by(self, path: Path) -> tuple[Included, ...]:
        """Every file that ``path`` includes, however deep. Only for a path that was read."""
        found: dict[Included, None] = {}
        for included in self._included.get(path.resolve(), ()):
            found[included] = None
            found.update(dict.fromkeys(self.included_by(included.path)))
        return tuple(found)

    def _read(self, path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
        real = path.resolve()
        if real in including:
            chain = " -> ".join(str(step) for step in (*including, real))
            raise TaskFileError(f"{including[0]}: include goes in a circle: {chain}")
        merged = self._merged.get(real)
        if merged is None:
            # Relative paths count from where the file was found, which a symbolic link must not change.
            merged = self._merged[real] = self._merge(path, _parse(path), (*including, real))
        return merged

    def _merge(self, path: Path, own: dict[str, Any], including: tuple[Path, ...]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        included_paths = _included_paths(path, own.pop("include", None))
        self._included[including[-1]] = tuple(included_paths)
        for included in reversed(included_paths):
            merged.update(self._read(included.path, including))
        merged.update(own)
        return _with_absolute_data_files(merged, path.parent)


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise TaskFileError(f"{path}: cannot be read: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise TaskFileError(f"{path}: is larger than {MAX_FILE_BYTES >> 20} MiB, which no task file is")
    try:
        value = read_yaml(text, functools.partial(_construct, directory=path.parent))
    except YamlTextError as error:
        raise TaskFileError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise TaskFileError(f"{path}: must be a mapping of keys to values, but is {_kind_of(value)}")
    return value


def _construct(text: str, directory: Path) -> Any:
    loader = _TaskLoader(text)
    loader.directory = directory
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _included_paths(path: Path, include: Any) -> list[Included]:
    if include is None:
        return []
    names = [include] if isinstance(include, str) else include
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TaskFileError(f"{path}: include must be a path or a list of paths, but is {include!r}")
    return [Included(name, _included_path(path, name)) for name in names]


def _included_path(path: Path, name: str) -> Path:
    candidates = (Path(name), path.parent / name)
    for candidate in candidates:
        if os.path.isfile(candidate):  # noqa: PTH113 - unlike Path's it answers for names that no file system takes
            return candidate
    raise TaskFileError(f"{path}: include {name!r}: no such file, neither in the working directory nor beside the file")


def _with_absolute_data_files(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """``config`` with data files that lie beside the YAML file named by absolute paths, wherever the process runs."""
    path, kwargs = config.get("dataset_path"), config.get("dataset_kwargs")
    if not isinstance(path, str):
        return config
    if path.startswith(("./", "../")):
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # else it is no path; who opens the data says so
            config = {**config, "dataset_path": str((directory / path).resolve())}
    if path in PACKAGED_BUILDERS and isinstance(kwargs, dict) and kwargs.get("data_files"):
        data_files = _absolute(kwargs["data_files"], directory)
        config = {**config, "dataset_kwargs": {**kwargs, "data_files": data_files}}
    return config


def _absolute(value: Any, directory: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _absolute(item, directory) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_absolute(item, directory) for item in value]
    if not isinstance(value, str) or value.startswith(_URL_SCHEMES) or Path(value).is_absolute():
        return value
    for candidate in _data_file_candidates(value, directory):
        if os.path.isfile(candidate):  # noqa: PTH113 - as above
            return str(candidate.resolve())
    if any(sign in value for sign in "*?["):
        with contextlib.suppress(OSError, ValueError, NotImplementedError):  # no pattern, or of no file system's names
            if any(directory.glob(value)):
                return str(directory.resolve() / value)
    return value


def _data_file_candidates(name: str, directory: Path) -> Iterator[Path]:
    yield directory / name
    # Some tasks name their files from the root of the checkout, as lmms_eval/tasks/x/data/y.json.
    first = Path(name).parts[:1]  # of "." there is none
    for ancestor in directory.resolve().parents:
        if (ancestor.name,) == first:
            yield ancestor.parent / name


def _kind_of(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"

"""Opening a task's dataset: local files, a saved dataset, a folder, or the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.data.archives import prepare_media
from lmms_eval_grpc.engine.data.folders import datasets_cache, task_folder

PACKAGED_BUILDERS = frozenset({"csv", "json", "parquet", "text", "pandas", "arrow", "imagefolder", "webdataset"})
"""Readers that come with the datasets library; a folder of such a name in the working directory means nothing."""

# Handled here or meaningless for load_dataset; everything else in dataset_kwargs is handed on to it.
_OWN_KEYS = frozenset(
    {
        "load_from_disk",
        "local_files_only",
        "max_retries",
        "num_proc",
        "force_download",
        "force_unzip",
        "create_link",
        "video",
    }
)
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_UNSUPPORTED_KEYS = ("From_YouTube", "builder_script", "streaming")


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """Where a task's documents come from, as its YAML file says."""

    task: str
    path: str | None
    name: str | None = None
    kwargs: Mapping[str, Any] | None = None
    trust_remote_code: bool = False

    @property
    def local_path(self) -> Path | None:
        """The folder or file that ``path`` names on this machine; None when it names a builder or a hub dataset."""
        if self.path is None or self.path in PACKAGED_BUILDERS:
            return None
        path = Path(self.path).expanduser()
        return path if path.exists() else None

    def open(self) -> Mapping[str, Any]:
        """Every split: see :func:`open_splits`."""
        return open_splits(self)


def open_split(source: DatasetSource, split: str) -> Any:
    """The ``datasets.Dataset`` of one split, media not yet decoded.

    Raises EvaluationError: DATASET_UNAVAILABLE when the data cannot be had (with what to do about it), TASK_LOAD_FAILED
    when the task asks for a split that the data does not have, UNSUPPORTED_TASK for kinds of data not read yet.
    """
    return pick_split(source, open_splits(source), split)


def pick_split(source: DatasetSource, splits: Mapping[str, Any], split: str) -> Any:
    """One of ``splits``, which were opened from ``source``. Raises EvaluationError TASK_LOAD_FAILED."""
    if split not in splits:
        raise EvaluationError(
            "TASK_LOAD_FAILED",
            f"task {source.task}: the dataset {source.path!r} has no split {split!r}, only "
            f"{', '.join(map(str, splits))}; correct test_split or validation_split in the task file",
        )
    return splits[split]


def open_splits(source: DatasetSource) -> Mapping[str, Any]:
    """Every split of the data, by name. Media that the data keep in archives are unpacked first.

    Raises EvaluationError as :func:`open_split` does.
    """
    import datasets

    _refuse_unsupported(source)
    kwargs = dict(source.kwargs or {})
    if kwargs.get("token") is True and not _has_token():
        del kwargs["token"]  # Most tasks say so; public data need none, and the libraries would insist on it.
    if kwargs.get("video"):
        _prepare_videos(source, kwargs)
    try:
        if kwargs.get("load_from_disk"):
            loaded = datasets.load_from_disk(str(Path(str(source.path)).expanduser()))
        else:
            loaded = _load_dataset(source, kwargs)
    except EvaluationError:
        raise
    except Exception as error:
        raise EvaluationError("DATASET_UNAVAILABLE", _explain(source, error)) from error
    if isinstance(loaded, datasets.DatasetDict):
        return dict(loaded)
    if isinstance(loaded, datasets.Dataset) and loaded.split is not None:
        return {str(loaded.split): loaded}
    raise EvaluationError(
        "DATASET_UNAVAILABLE",
        f"task {source.task}: the dataset {source.path!r} has no named splits; save it as a DatasetDict, "
        "or name its files per split in dataset_kwargs.data_files",
    )


def _load_dataset(source: DatasetSource, kwargs: dict[str, Any]) -> Any:
    import datasets

    if "HF_UPDATE_DOWNLOAD_COUNTS" not in os.environ:
        # That its readers of files are used it tells Hugging Face every time, and waits for an answer for up to 3 s.
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    download = datasets.DownloadConfig(
        max_retries=int(kwargs.get("max_retries", 10)),
        num_proc=int(kwargs.get("num_proc", 1)),
        local_files_only=bool(kwargs.get("local_files_only", False)),
    )
    options = {key: value for key, value in kwargs.items() if key not in _OWN_KEYS}
    if kwargs.get("force_download"):
        options["download_mode"] = datasets.DownloadMode.FORCE_REDOWNLOAD
    cache = datasets_cache()
    if cache is not None:
        options.setdefault("cache_dir", str(cache))
    trusted = options.pop("trust_remote_code", False) or source.trust_remote_code
    if trusted and int(datasets.__version__.partition(".")[0]) < 4:
        options["trust_remote_code"] = True  # Later versions run no code of a dataset's, and say so at length.
    path = source.local_path
    return datasets.load_dataset(str(path or source.path), source.name, download_config=download, **options)


def _prepare_videos(source: DatasetSource, kwargs: dict[str, Any]) -> None:
    """Unpacks the videos and takes ``cache_dir`` away: it says where they go, not where prepared data are kept."""
    name = kwargs.pop("cache_dir", None)
    if not isinstance(name, str):
        message = (
            f"task {source.task}: dataset_kwargs.video needs cache_dir, the folder where the task looks for its videos"
        )
        raise EvaluationError("TASK_LOAD_FAILED", message)
    prepare_media(
        source.task,
        str(source.path),
        task_folder(name),
        revision=kwargs.get("revision"),
        force_download=bool(kwargs.get("force_download")),
        force_unzip=bool(kwargs.get("force_unzip")),
        create_link=bool(kwargs.get("create_link")),
        local_files_only=bool(kwargs.get("local_files_only")),
        token=kwargs.get("token"),
    )


def _has_token() -> bool:
    from huggingface_hub import get_token  # late, as the datasets library is

    return get_token() is not None


def _refuse_unsupported(source: DatasetSource) -> None:
    kwargs = source.kwargs or {}
    if source.path is None:
        raise EvaluationError("TASK_LOAD_FAILED", f"task {source.task}: dataset_path is missing in the task file")
    for key in _UNSUPPORTED_KEYS:
        if kwargs.get(key):
            raise EvaluationError(
                "UNSUPPORTED_TASK",
                f"task {source.task}: dataset_kwargs.{key} is not supported yet; give the data as files",
            )


def _explain(source: DatasetSource, error: Exception) -> str:
    name = f"{source.path!r}" + (f" ({source.name})" if source.name else "")
    reason = " ".join(str(error).split())[:500] or type(error).__name__
    start = f"task {source.task}: the dataset {name} could not be loaded: {reason}."
    if (
        source.local_path is not None
        or (source.kwargs or {}).get("data_files")
        or (source.kwargs or {}).get("load_from_disk")
    ):
        return f"{start} Check that the files named in the task file exist on this machine and are whole."
    offline = next((name for name in _OFFLINE if os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON")), None)
    if offline is not None:
        start += f" {offline} is set, so nothing is downloaded."
    return (
        f"{start} If this machine has no network, put the dataset into its Hugging Face cache first (load it once with "
        "network and the same HF_HOME) or point dataset_path to a local copy; if the dataset is private or gated, set "
        "HF_TOKEN."
    )

"""``lmms_eval.api.task``: what a task written as a Python class derives from.

The class says how its data are had (``download``) and may replace any of the functions that a YAML file names; the
engine reads both from an instance. Nothing else of lmms-eval's task class is here: requests, scoring and aggregation
are the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from lmms_eval_grpc.engine.data.source import DatasetSource, open_splits
from lmms_eval_grpc.engine.tasks.config import default_values


class Task:
    """A task that is given a configuration and finds its data in ``download``."""

    VERSION: Any = "Yaml"
    DATASET_PATH: str | None = None
    DATASET_NAME: str | None = None
    OUTPUT_TYPE: str | None = None

    def __init__(
        self,
        data_dir: str | None = None,
        cache_dir: str | None = None,
        download_mode: Any = None,
        config: Mapping[str, Any] | None = None,
        model_name: str | None = None,
    ) -> None:
        values = {**default_values(), **(config or getattr(self, "CONFIG", None) or {})}
        values["dataset_path"] = values.get("dataset_path") or self.DATASET_PATH
        values["dataset_name"] = values.get("dataset_name") or self.DATASET_NAME
        self._config = SimpleNamespace(**values)
        self.model_name = model_name
        self.dataset: Any = None
        self.dataset_no_image: Any = None
        self.download(self._config.dataset_kwargs)

    @property
    def config(self) -> SimpleNamespace:
        """The YAML file's keys as attributes; None or the default where one is absent."""
        return self._config

    @property
    def task_name(self) -> str | None:
        return getattr(self._config, "task", None)

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Sets ``self.dataset`` to a mapping of splits. A subclass may get them from anywhere."""
        config = self._config
        source = DatasetSource(config.task or "", config.dataset_path, config.dataset_name, dataset_kwargs)
        self.dataset = open_splits(source)


class ConfigurableTask(Task):
    """A task with a YAML file."""


class ConfigurableMessagesTask(ConfigurableTask):
    """The same, for models that take messages."""

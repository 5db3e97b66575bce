"""A worker's model: begun before there is a device, loaded for a job, and perhaps kept for the next one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.entry import Loader, LoadSettings
from lmms_eval_grpc.engine.models.protocol import Backend, Reusable

logger = logging.getLogger(__name__)


class WorkerModel:
    """At most one backend at a time."""

    def __init__(self) -> None:
        self._loader: Loader | None = None
        self._backend: Backend | None = None

    def prepare(self, config: EvaluationConfig) -> None:
        """Does what of loading needs no device. What fails here is tried again when the model is loaded."""
        from lmms_eval_grpc.engine.run.evaluate import prepare_backend  # late, as in main

        try:
            self._loader = prepare_backend(config)
        except Exception as error:
            logger.info("the model cannot be prepared yet (%s: %s)", type(error).__name__, error)

    @contextlib.contextmanager
    def open(self, config: EvaluationConfig, *, keep: bool) -> Iterator[Backend]:
        """The backend of this configuration, for :func:`~lmms_eval_grpc.engine.run.evaluate.evaluate`.

        Args:
            keep: whether to leave it loaded, if it is of a kind that serves more than one evaluation.
        """
        from lmms_eval_grpc.engine.run.evaluate import load_backend

        backend = self._backend or load_backend(config, self._loader)
        self._backend = self._loader = None
        try:
            yield backend
        finally:
            if worked := getattr(backend, "worked", None):
                logger.info("the model worked from %.6f to %.6f (seconds since the epoch)", *worked)
            if keep and isinstance(backend, Reusable):
                self._backend = backend
            else:
                backend.close()

    def rest(self) -> bool:
        """Whether there is a model that was kept; it holds no more memory now than it needs. If not, this process can
        only end, which frees whatever there is."""
        if not isinstance(self._backend, Reusable):
            return False
        try:
            self._backend.rest()
        except Exception as error:  # the device may have failed
            logger.warning("the model cannot be kept: %s: %s", type(error).__name__, error)
            return False
        return True

    def become(self, config: EvaluationConfig) -> None:
        """Makes the kept model that of another configuration.

        Raises:
            CannotReuse: it is another model.
            EvaluationError: it has failed half-way.
        """
        assert self._backend is not None
        registry.reuse(self._backend, config.model, config.model_args, LoadSettings.of(config))

"""The sync and the asyncio client are one interface, and it has all of lmms-eval's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import pytest

from lmms_eval_grpc.client import AsyncEvalClient, EvalClient
from lmms_eval_grpc.v1.job_pb2 import JobEvent

# lmms-eval 0.7's client: its methods, their arguments in order, with defaults.
LMMS_EVAL: dict[str, dict[str, Any]] = {
    "close": {},
    "health": {},
    "is_healthy": {},
    "list_tasks": {},
    "list_models": {},
    "evaluate": {
        "model": inspect.Parameter.empty,
        "tasks": inspect.Parameter.empty,
        "model_args": None,
        "num_fewshot": None,
        "batch_size": None,
        "device": None,
        "limit": None,
        "gen_kwargs": None,
        "log_samples": True,
        "predict_only": False,
        "num_gpus": 1,
        "output_dir": None,
    },
    "get_job": {"job_id": inspect.Parameter.empty},
    "cancel_job": {"job_id": inspect.Parameter.empty},
    "wait_for_job": {
        "job_id": inspect.Parameter.empty,
        "poll_interval": 5.0,
        "timeout": None,
        "verbose": True,
    },
    "get_queue_status": {},
    "merge_checkpoint": {
        "checkpoint_path": inspect.Parameter.empty,
        "output_path": None,
        "checkpoint_type": "regular",
    },
}
BOTH = pytest.mark.parametrize("kind", [EvalClient, AsyncEvalClient])


def methods(kind: type) -> dict[str, Callable[..., Any]]:
    return {name: member for name, member in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def in_sync_shape(returned: str) -> str:
    """What the sync client returns where the asyncio client returns this."""
    returned = returned.replace("<class 'lmms_eval_grpc.client.aio.JobEvents'>", str(Iterator[JobEvent]))
    return returned.replace("AsyncSampleReader", "SampleReader").replace("AsyncIterator", "Iterator")


def test_the_twins_have_the_same_methods_with_the_same_arguments() -> None:
    assert methods(EvalClient).keys() == methods(AsyncEvalClient).keys()
    for name, method in {**methods(EvalClient), "__init__": EvalClient.__init__}.items():
        twin = getattr(AsyncEvalClient, name)
        assert inspect.signature(method).parameters == inspect.signature(twin).parameters, name


def test_the_twins_return_the_same_types() -> None:
    for name, method in methods(EvalClient).items():
        sync = str(get_type_hints(method)["return"])
        aio = str(get_type_hints(getattr(AsyncEvalClient, name))["return"])
        assert sync == in_sync_shape(aio), name


def test_the_twins_are_awaited_or_iterated_as_their_shape_says() -> None:
    for name, method in methods(AsyncEvalClient).items():
        returned = str(get_type_hints(method)["return"])
        assert inspect.iscoroutinefunction(method) == (in_sync_shape(returned) == returned), name


def test_the_twins_are_documented_alike() -> None:
    for name, method in methods(EvalClient).items():
        assert inspect.getdoc(method), name
        assert inspect.getdoc(method) == inspect.getdoc(getattr(AsyncEvalClient, name)), name


@BOTH
@pytest.mark.parametrize("name", LMMS_EVAL)
def test_lmms_evals_methods_take_its_arguments(kind: type, name: str) -> None:
    parameters = list(inspect.signature(getattr(kind, name)).parameters.values())[1:]
    expected = list(LMMS_EVAL[name].items())
    assert [(p.name, p.default) for p in parameters[: len(expected)]] == expected
    for more in parameters[len(expected) :]:
        assert more.default is not inspect.Parameter.empty or more.kind is inspect.Parameter.VAR_KEYWORD, more


@BOTH
def test_the_constructor_takes_lmms_evals_arguments(kind: type) -> None:
    assert list(inspect.signature(kind).parameters)[:2] == ["base_url", "timeout"]
    assert inspect.signature(kind).parameters["timeout"].default is None
    client = kind("http://localhost:50051/", 3)
    assert (client.base_url, client.timeout) == ("http://localhost:50051/", 3)


def test_the_clients_are_context_managers() -> None:
    assert hasattr(EvalClient, "__enter__")
    assert hasattr(AsyncEvalClient, "__aenter__")
    assert inspect.getdoc(EvalClient.__init__) == inspect.getdoc(AsyncEvalClient.__init__)

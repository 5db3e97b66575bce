"""6. Limit, offset and rank choose what ``itertools.islice`` chooses, for any values."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.tasks.task import Task
from tests.support.task_files import datasets_cache, load, write_task

__all__ = ["datasets_cache"]

SIZE = 37


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("slices")
    write_task(folder, documents=[{"question": "q", "answer": "a"}] * SIZE)
    return load(folder)


@settings(max_examples=300, deadline=None)
@given(
    limit=st.one_of(st.none(), st.just(-1), st.integers(1, 50), st.floats(0.001, 0.999)),
    offset=st.integers(0, 45),
    world=st.integers(1, 5),
)
def test_slices_are_those_of_islice(task: Task, limit: int | float | None, offset: int, world: int) -> None:
    count = None if limit is None or limit == -1 else math.ceil(SIZE * limit) if limit < 1 else int(limit)
    stop = None if count is None else offset + count
    everything = list(itertools.islice(range(SIZE), offset, stop))
    if not everything:
        with pytest.raises(EvaluationError) as raised:
            task.doc_ids(limit, offset)
        assert raised.value.reason == "NO_DOCUMENTS"
        return
    ids = task.doc_ids(limit, offset)
    assert list(ids) == everything
    for rank in range(world):
        assert list(ids[rank::world]) == list(itertools.islice(range(SIZE), rank + offset, stop, world))

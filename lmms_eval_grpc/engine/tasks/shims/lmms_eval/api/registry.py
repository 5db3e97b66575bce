"""``lmms_eval.api.registry``: decorators that register with lmms-eval; here they leave what they decorate as it is.

A metric or filter of a task's own is named with ``!function`` in its YAML file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def _unchanged(*names: Any, **options: Any) -> Callable[[T], T]:
    return lambda decorated: decorated


register_task = register_group = register_metric = register_aggregation = register_filter = register_model = _unchanged

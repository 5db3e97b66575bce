"""Jinja templates over a document's columns, as task files write them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import jinja2


def render(template: str, document: Mapping[str, Any]) -> str:
    """``template`` with the document's columns as variables.

    Beside Jinja's own filters there is ``regex_replace(pattern, replacement, count=0)``. Raises jinja2.TemplateError,
    for a column that the document lacks too.
    """
    return _compiled(template).render(**document)


@functools.lru_cache(maxsize=1024)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@functools.lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters["regex_replace"] = _regex_replace
    return environment


def _regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, string, count=count)

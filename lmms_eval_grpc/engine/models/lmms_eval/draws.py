"""Whether a class of lmms-eval samples by itself, read from its source."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator

from lmms_eval_grpc.engine.packages import LMMS_EVAL


def samples_by_default(model_class: type) -> bool:
    """Whether there are signs of it: a temperature above 0, or ``do_sample=True``, written out where the class is.

    A class whose source cannot be read counts as one that does. Its bases count as far as they are lmms-eval's.
    """
    modules = {base.__module__ for base in model_class.__mro__ if base.__module__.startswith(LMMS_EVAL)}
    modules.add(model_class.__module__)
    try:
        return any(has_signs(inspect.getsource(sys.modules[name])) for name in sorted(modules))
    except (OSError, TypeError, SyntaxError, KeyError):
        return True


def has_signs(source: str) -> bool:
    """The same of a module's text. Raises SyntaxError."""
    nodes = ast.walk(ast.parse(source))
    return any(_is_sign(name, value) for node in nodes for name, value in _named_values(node))


def _is_sign(name: str, value: ast.expr | None) -> bool:
    if not isinstance(value, ast.Constant):
        return False
    if name.endswith("do_sample"):
        return value.value is True
    return name.endswith("temperature") and isinstance(value.value, int | float) and value.value > 0


def _named_values(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Arguments, defaults of parameters, assignments and entries of mappings, by their names."""
    if isinstance(node, ast.keyword) and node.arg:
        yield node.arg, node.value
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        defaults = [*([None] * (len(positional) - len(node.defaults))), *node.defaults]
        for parameter, default in zip((*positional, *node.kwonlyargs), (*defaults, *node.kw_defaults), strict=True):
            yield parameter.arg, default
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value, value
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        # An entry that is set later is a consequence of a request's arguments.
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield getattr(target, "attr", getattr(target, "id", "")), node.value

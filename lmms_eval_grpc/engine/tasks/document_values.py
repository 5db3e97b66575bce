"""What a task reads from one document: its text, target, choices and visuals.

Each value may be given in several forms (a column, a template, a literal, a function); the order in which they are
tried is lmms-eval's, because real tasks rely on it.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Collection, Mapping
from types import FunctionType
from typing import Any

from lmms_eval_grpc.engine.tasks.config import TaskConfig
from lmms_eval_grpc.engine.tasks.templates import render

Document = Mapping[str, Any]


def doc_to_text(config: TaskConfig, columns: Collection[str], document: Document) -> Any:
    """The question: usually str; int when it is the number of a choice; a column's raw value otherwise.

    Raises TypeError when the task does not say how.
    """
    rule = config.doc_to_text
    if isinstance(rule, int):
        return rule
    if isinstance(rule, str):
        if rule in columns:
            return document[rule]
        text = render(rule, document)
        return int(text) if config.doc_to_choice is not None and text.isdigit() else text
    if callable(rule):
        kwargs = config.lmms_eval_specific_kwargs
        return rule(document) if kwargs is None else rule(document, kwargs)
    raise TypeError(f"doc_to_text must be a column, a template, a number or a function, but is {rule!r}")


def doc_to_target(config: TaskConfig, columns: Collection[str], document: Document) -> Any:
    """The reference answer, or a list of acceptable ones, or the number of a choice.

    Raises TypeError when the task does not say how.
    """
    rule = config.doc_to_target
    if isinstance(rule, int | list):
        return rule
    if isinstance(rule, str):
        if rule in columns:
            return document[rule]
        text = render(rule, document)
        if config.doc_to_choice is not None and text.isdigit():
            return int(text)
        return _literal_or_text(text)
    if callable(rule):
        kwargs = config.model_specific_target_kwargs
        return rule(document) if kwargs is None else rule(document, kwargs)
    raise TypeError(f"doc_to_target must be a column, a template, a literal or a function, but is {rule!r}")


def doc_to_choice(config: TaskConfig, columns: Collection[str], document: Document) -> list[str]:
    """The choices' texts, in their order. Raises TypeError when the task does not say how."""
    rule = config.doc_to_choice
    if isinstance(rule, str):
        return list(document[rule] if rule in columns else ast.literal_eval(render(rule, document)))
    if isinstance(rule, list):
        return rule
    if isinstance(rule, Mapping):
        return list(rule.values())
    if callable(rule):
        return list(rule(document))
    raise TypeError(f"doc_to_choice must be a column, a template, a list, a mapping or a function, but is {rule!r}")


def doc_to_visual(config: TaskConfig, columns: Collection[str], document: Document) -> list[Any]:
    """Images, videos and audio of the document, in their order; empty for a task of text only.

    Raises TypeError when the task does not say how, KeyError when it names a column that is not there.
    """
    rule = config.doc_to_visual
    if rule is None:
        return []
    if isinstance(rule, str):
        if rule not in columns:
            raise KeyError(f"doc_to_visual names the column {rule!r}, but there are only {', '.join(sorted(columns))}")
        return [document[rule]]
    if not callable(rule):
        raise TypeError(f"doc_to_visual must be a column or a function, but is {rule!r}")
    kwargs = config.lmms_eval_specific_kwargs
    visuals = rule(document, kwargs) if kwargs is not None and _takes_two(rule) else rule(document)
    if visuals is None:
        return []
    return list(visuals) if isinstance(visuals, list | tuple) else [visuals]


def doc_to_messages(config: TaskConfig, document: Document, **round_info: Any) -> Any:
    """What the task's own ``doc_to_messages`` returns. The task must have one.

    ``round_info`` (``round_idx``, ``previous_output``, ``previous_round_info``) goes to functions that take it.
    """
    function, kwargs = config.doc_to_messages, config.lmms_eval_specific_kwargs
    parameters, takes_any = _parameters(function)
    accepted = {name: value for name, value in round_info.items() if takes_any or name in parameters}
    if kwargs is None:
        return function(document, **accepted)
    if "lmms_eval_specific_kwargs" in parameters or takes_any:
        return function(document, lmms_eval_specific_kwargs=kwargs, **accepted)
    return function(document, kwargs) if len(parameters) == 2 else function(document, **accepted)


def doc_to_text_in_round(config: TaskConfig, document: Document, **round_info: Any) -> Any:
    """What the task's ``doc_to_text``, a function, returns for a later round of a conversation."""
    function, kwargs = config.doc_to_text, config.lmms_eval_specific_kwargs
    parameters, takes_any = _parameters(function)
    accepted = {name: value for name, value in round_info.items() if takes_any or name in parameters}
    if "lmms_eval_specific_kwargs" in parameters or takes_any:
        return function(document, lmms_eval_specific_kwargs=kwargs, **accepted)
    return function(document, **accepted)


def _parameters(function: Any) -> tuple[Mapping[str, inspect.Parameter], bool]:
    """A function's parameters, and whether it takes any keyword."""
    parameters = _signature(function).parameters
    return parameters, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _signature(function: Any) -> inspect.Signature:
    # Reading one takes longer than most task functions do, and they are asked for with every document.
    return _read_signature(function) if isinstance(function, FunctionType) else inspect.signature(function)


_read_signature = functools.lru_cache(maxsize=64)(inspect.signature)


def _literal_or_text(text: str) -> Any:
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _takes_two(function: Any) -> bool:
    return len(_signature(function).parameters) == 2

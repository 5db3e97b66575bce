"""Making a model of lmms-eval: its class is imported and called with what the user gave."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.exhaustion import is_out_of_memory
from lmms_eval_grpc.engine.models.entry import LoadSettings
from lmms_eval_grpc.engine.packages import LMMS_EVAL, StandIn, lmms_eval_folder, package_folder


def load_class(name: str, *, force_simple: bool) -> type:
    """The class of lmms-eval's backend ``name``: the one that takes messages, if there is one and it is wanted.

    Raises:
        EvaluationError: ``MISSING_PACKAGES`` or ``MODEL_LOAD_FAILED``.
    """
    if any(isinstance(finder, StandIn) for finder in sys.meta_path):
        raise RuntimeError("task code has run in this process, so lmms-eval cannot be imported here")
    folder = lmms_eval_folder()
    if folder is None:
        raise EvaluationError("MISSING_PACKAGES", f"model {name!r} is lmms-eval's: pip install lmms-eval")
    if folder != package_folder(LMMS_EVAL):
        sys.path.insert(0, str(folder.parent))
    try:
        from lmms_eval import models  # type: ignore[import-not-found]  # optional, and never where task code runs

        found: type = models.get_model(name, force_simple)
    except ImportError as error:
        traceback.print_exc()
        message = f"lmms-eval's backend {name!r} cannot be imported: {_last_line(error)}"
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        raise EvaluationError("MISSING_PACKAGES" if missing else "MODEL_LOAD_FAILED", message) from error
    except Exception as error:
        traceback.print_exc()
        message = f"lmms-eval's backend {name!r} cannot be imported: {_last_line(error)}"
        raise EvaluationError("MODEL_LOAD_FAILED", message) from error
    return found


def make_model(model_class: type, model_args: Mapping[str, Any], settings: LoadSettings) -> Any:
    """Calls the class. Of device and batch sizes it gets those that its constructor names.

    Raises:
        EvaluationError: ``MODEL_LOAD_FAILED``, ``OUT_OF_MEMORY`` or ``MISSING_PACKAGES``; for an argument that the
            class does not take it names that, and those it does.
    """
    named, takes_others = constructor_arguments(model_class)
    unknown = [key for key in model_args if key not in named]
    if unknown and not takes_others:
        raise _refused(model_class, f"has no argument {', '.join(map(repr, unknown))}", named)
    try:
        return model_class(**_offered(named, model_args, settings), **model_args)
    # lmms-eval's classes refuse what is left over by an assertion, or hand it on to somebody who does not take it.
    except (TypeError, AssertionError) as error:
        traceback.print_exc()
        raise _refused(model_class, f"cannot be made: {_last_line(error)}", named) from error
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        reason = "MODEL_LOAD_FAILED"
        if is_out_of_memory(error):
            reason = "OUT_OF_MEMORY"
        elif isinstance(error, ModuleNotFoundError):
            reason = "MISSING_PACKAGES"
        raise EvaluationError(
            reason, f"lmms-eval's {model_class.__name__} cannot be made: {_last_line(error)}"
        ) from error


def constructor_arguments(model_class: type) -> tuple[dict[str, Any], bool]:
    """The arguments that the class's constructor names, with their defaults, and whether it takes others too.

    As long as a constructor takes others, it may hand them to the one of the class above, whose names count too.
    """
    named: dict[str, Any] = {}
    takes_others: list[bool] = []
    for base in model_class.__mro__[:-1]:
        if "__init__" in vars(base) and all(takes_others):
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            for parameter in parameters:
                if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                    named.setdefault(parameter.name, parameter.default)
            takes_others.append(any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters))
    return named, not takes_others or takes_others[0]


def _offered(named: Mapping[str, Any], model_args: Mapping[str, Any], settings: LoadSettings) -> dict[str, Any]:
    offers = {
        "device": settings.device,
        "batch_size": settings.batch_size,
        "max_batch_size": settings.max_batch_size,
        "trust_remote_code": settings.trust_remote_code or None,
    }
    usual_map = named.get("device_map")
    # With "auto" such classes send their inputs to a GPU; nothing is a map that transformers refuses.
    if usual_map == "" or (usual_map == "auto" and settings.device == "cpu"):
        offers["device_map"] = settings.device
    return {
        key: value
        for key, value in offers.items()
        if value is not None and key in named and key not in model_args
    }  # fmt: skip


def _refused(model_class: type, why: str, named: Mapping[str, Any]) -> EvaluationError:
    return EvaluationError(
        "MODEL_LOAD_FAILED",
        f"lmms-eval's {model_class.__name__} {why}. The model_args that it names are: {', '.join(named)}",
    )


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()

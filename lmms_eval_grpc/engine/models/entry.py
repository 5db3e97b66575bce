"""What is known of a model backend before any of it is imported: names, arguments, needs, and where its loader is.

Light: imports no model library, so that a server can list backends and refuse a wrong argument in no time.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lmms_eval_grpc.engine.api import EvaluationConfig, Problem
from lmms_eval_grpc.engine.models.generation_arguments import describe_unknown
from lmms_eval_grpc.engine.models.protocol import Backend

REQUIRED = object()
"""The default of an argument that has none."""


Names = Literal["", "checkpoint", "file", "elsewhere"]
"""What a text in ``model_args`` names: a checkpoint (a folder, an id on the hub, a URL); a file, where it is not itself
the text; what is opened on another machine, if at all. Empty: nothing that is known; what looks like a path is one."""


@dataclass(frozen=True, slots=True)
class ModelArgument:
    """One key of ``model_args``."""

    type: type | tuple[type, ...]
    default: Any
    """:data:`REQUIRED`, or the value used when the key is absent."""
    description: str
    choices: tuple[Any, ...] = ()
    """The only values allowed; empty: any value of the type."""
    other_names: tuple[str, ...] = ()
    """Further keys that mean the same, as users of lmms-eval's backends type them."""
    names: Names = ""
    """What a text in it may name."""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    def describe_type(self) -> str:
        types = self.type if isinstance(self.type, tuple) else (self.type,)
        return " or ".join(_TYPE_NAMES.get(kind, kind.__name__) for kind in types)

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` has the right type; an int passes as a float, a bool never passes as an int."""
        types = self.type if isinstance(self.type, tuple) else (self.type,)
        if isinstance(value, bool):
            return bool in types
        if isinstance(value, int) and float in types:
            return True
        return isinstance(value, types)


_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "a mapping"}


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """Where and how to run a model: what a job says beside ``model_args``."""

    device: str = "cpu"
    """A torch device string as this process sees it."""
    batch_size: int | None = None
    """Samples per forward pass; None: found automatically."""
    max_batch_size: int | None = None
    """Ceiling of the automatic batch size; None: the backend's own."""
    trust_remote_code: bool = False
    """Whether a checkpoint's own Python code may run; also in the values of a backend with such an argument."""
    force_simple: bool = False
    """Whether to prefer an implementation that takes a prompt and visuals to one that takes messages."""

    @classmethod
    def of(cls, config: EvaluationConfig) -> LoadSettings:
        """Those of an evaluation."""
        return cls(
            config.device, config.batch_size, config.max_batch_size, config.trust_remote_code, config.force_simple
        )


Loader = Callable[["ModelEntry", Mapping[str, Any], LoadSettings], Backend]
"""Makes a backend of an entry, the values of all its arguments (defaults filled in), and the settings.

Raises :class:`EvaluationError` with a reason such as ``MODEL_LOAD_FAILED`` or ``OUT_OF_MEMORY``.
"""

Preparer = Callable[["ModelEntry", Mapping[str, Any], LoadSettings], Loader]
"""Does what of loading a model is possible while another one has the device, which is not touched unless it is the CPU.
The loader that it returns makes the same backend as the entry's own, sooner; it is called at most once, perhaps for
another device, and whatever has changed by then counts.

Raises whatever it likes: the model is then loaded without it.
"""

_MODULE_OF_PACKAGE = {"pillow": "PIL"}
"""Names to import of packages that are installed by another name."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One backend as users know it."""

    name: str
    description: str
    loader: str
    """``module:function`` of a :data:`Loader`; imported only when a model is to be loaded."""
    arguments: Mapping[str, ModelArgument]
    """The keys of ``model_args``."""
    aliases: tuple[str, ...] = ()
    kind: str = "chat"
    """``chat`` (takes messages) or ``simple`` (takes a prompt string and visuals)."""
    modalities: tuple[str, ...] = ("text", "image")
    requires: tuple[str, ...] = ("torch", "transformers>=5", "accelerate", "pillow")
    """The pip packages without which the backend cannot be made, with the version that it needs at least, if any."""
    model_types: tuple[str, ...] = ()
    """``model_type`` values of the checkpoints that this name stands for; empty: any."""
    visual_cot: bool = False
    """Whether the model can draw while it thinks, as its backend's capabilities will say once it is loaded."""
    several_devices: Literal["replicas", "own", "refused"] = "replicas"
    """What becomes of several devices: a replica of the backend for each, one backend that sees them all, or nothing,
    because it uses none."""
    any_arguments: bool = False
    """Whether other keys of ``model_args`` may be right too: what it takes is known only once it is imported."""
    also_simple: bool = False
    """Whether ``force_simple`` may be asked for: there is an implementation that takes a prompt and visuals."""
    own_process: bool = False
    """Whether it must run where no task's code does, because of what it imports."""
    generation_keys: Callable[[], frozenset[str] | None] = lambda: None
    """The keys of generation arguments that it takes; None: only the backend knows. Called where no model library may
    be imported."""
    preparer: str = ""
    """``module:function`` of a :data:`Preparer`; empty: there is none."""
    source: str = ""
    """Whose it is, where it is neither this package's nor a plug-in's."""

    def check_args(self, model_args: Mapping[str, Any]) -> list[Problem]:
        """Everything wrong with ``model_args``, all at once; empty when nothing is."""
        problems = []
        for key, argument in self.arguments.items():
            if argument.default is not REQUIRED and not argument.other_names:
                continue
            given = [name for name in (key, *argument.other_names) if name in model_args]
            if argument.required and not any(model_args[name] for name in given):
                problems.append(
                    Problem(
                        f"model_args.{key}", f"model {self.name!r} needs the argument {key!r}: {argument.description}"
                    )
                )
            if len(given) > 1:
                problems.append(
                    Problem(f"model_args.{given[1]}", f"{' and '.join(given)} mean the same; give one of them")
                )
        for key, value in model_args.items():
            known = self.arguments.get(self._own_name(key))
            if known is None and self.any_arguments:
                continue
            if known is None:
                problems.append(Problem(f"model_args.{key}", self._describe_unknown(key)))
            elif not known.accepts(value):
                found = _TYPE_NAMES.get(type(value), type(value).__name__)
                problems.append(
                    Problem(f"model_args.{key}", f"{key} must be {known.describe_type()}, not {found} ({value!r})")
                )
            elif known.choices and value not in known.choices:
                allowed = ", ".join(map(str, known.choices))
                problems.append(Problem(f"model_args.{key}", f"{key} must be one of {allowed}, not {value!r}"))
        return problems

    def check_generation(self, generation: Mapping[str, Any], field: str = "gen_kwargs") -> list[Problem]:
        """The keys of ``generation`` that the model does not take; ``field`` is where they were given."""
        known = self.generation_keys()
        if known is None:
            return []
        return [
            Problem(f"{field}.{key}", describe_unknown(key, self.name, known)) for key in generation if key not in known
        ]

    def fill_in(self, model_args: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all arguments by their own names: those given, and the defaults of the others.

        A required argument that is not given has no value.
        """
        values = {key: argument.default for key, argument in self.arguments.items() if not argument.required}
        return values | {self._own_name(key): value for key, value in model_args.items()}

    def replicas(self, model_args: Mapping[str, Any], num_gpus: int) -> int:
        """How many replicas of the model run on so many devices; 1: one model that sees them all."""
        spread = model_args.get("device_map") is not None
        return num_gpus if self.several_devices == "replicas" and not spread else 1

    def missing_packages(self) -> tuple[str, ...]:
        """Which of the pip packages that the backend needs are not installed here, or too old. Imports none of them."""
        return tuple(requirement for requirement in self.requires if not _is_met(requirement))

    def names(self, key: str) -> Names:
        """What a text under that key of ``model_args`` may name."""
        known = self.arguments.get(self._own_name(key))
        if known is not None:
            return known.names
        return "checkpoint" if key == "pretrained" else ""

    def _own_name(self, key: str) -> str:
        """The argument's name where ``key`` is one of its other names."""
        if key in self.arguments:
            return key
        return next((name for name, argument in self.arguments.items() if key in argument.other_names), key)

    def _describe_unknown(self, key: str) -> str:
        names = [name for own, argument in self.arguments.items() for name in (own, *argument.other_names)]
        near = difflib.get_close_matches(key, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"model {self.name!r} has no argument {key!r}{hint}; its arguments are: {', '.join(self.arguments)}"


def _is_met(requirement: str) -> bool:
    package, _, wanted = requirement.partition(">=")
    if importlib.util.find_spec(_MODULE_OF_PACKAGE.get(package, package)) is None:
        return False
    return not wanted or _numbers(_version(package)) >= _numbers(wanted)


@functools.cache
def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _numbers(version: str) -> list[int]:
    """The numbers that a version begins with: ``4.57.6.dev0`` is 4, 57, 6."""
    return list(map(int, re.findall(r"\d+", version.partition("+")[0])))[:3]

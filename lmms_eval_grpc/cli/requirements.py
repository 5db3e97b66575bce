"""What the commands that evaluate need beyond the client."""

from __future__ import annotations

import importlib.util

from lmms_eval_grpc.cli.usage import UsageError

ENGINE_MODULES = ("yaml", "jinja2", "numpy", "torch", "transformers", "accelerate", "datasets", "PIL")
"""What the engine cannot do without; part of the ``server`` extra. Looked for, never imported here."""


ENGINE_COMMANDS = frozenset({"eval", "score", "compare", "power"})
"""Commands that are done in this process."""


def require(command: str, modules: tuple[str, ...] = ENGINE_MODULES) -> None:
    """Raises UsageError where modules that the ``server`` extra brings are not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"{command} needs packages that are not installed here ({', '.join(missing)});"
            ' install them with: pip install "lmms-eval-grpc[server]"'
        )

"""Python, and the packages that this release asks for."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata

from lmms_eval_grpc import __version__
from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok, warning
from lmms_eval_grpc.cli.doctor.setup import Setup

DISTRIBUTION = "lmms-eval-grpc"
ENABLES = {
    "openai": "models behind servers that speak OpenAI's API",
    "ray": "jobs on several machines (executor ray)",
    "tracing": "traces for an OpenTelemetry collector (otlp_endpoint)",
    "trackers": "TensorBoard, Weights & Biases and MLflow",
    "completion": "completion of this command line in a shell",
    "top": "the live page of the command top",
    "lmms-eval": "lmms-eval's own model backends",
}
"""What each optional extra is for. Those of developers are left out."""
_NOT_OFFERED = ("server", "all", "dev", "fuzz")
_GENERATED = ("lmms_eval_grpc.v1.evaluation_service_pb2_grpc", "grpc_health.v1.health_pb2")


def check_python(setup: Setup) -> Iterator[Finding]:
    """The interpreter, and the system that the worker processes need."""
    told = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; this release {__version__}"
    if sys.platform != "linux":
        yield failure("python", told, "run the server on Linux; clients run anywhere")
    else:
        yield ok("python", told)


def check_packages(setup: Setup) -> Iterator[Finding]:
    """What the ``server`` extra asks for: there, and in a version that will do."""
    try:
        wrong = list(_unmet("server"))
    except metadata.PackageNotFoundError:
        yield warning(
            "packages",
            f"{DISTRIBUTION} is not installed, it runs from a folder; what it needs is not known",
            f'install it: pip install "{DISTRIBUTION}[server]"',
        )
        return
    if wrong:
        yield failure("packages", f"the server needs {', '.join(wrong)}", f'pip install "{DISTRIBUTION}[server]"')
        return
    shown = ("grpcio", "protobuf", "torch", "transformers")
    yield ok("packages", ", ".join(f"{name} {metadata.version(name)}" for name in shown))


def check_generated_code(setup: Setup) -> Iterator[Finding]:
    """Whether the generated messages load: they ask for a runtime of protobuf and grpcio that is new enough."""
    for name in _GENERATED:
        try:
            importlib.import_module(name)
        except Exception as error:  # what protobuf raises for a runtime that is too old has changed over time
            yield failure(
                "protobuf",
                f"{name} does not load: {error}",
                "pip install --upgrade protobuf grpcio grpcio-health-checking",
            )
            return
    yield ok("protobuf", "the generated messages load")


def check_extras(setup: Setup) -> Iterator[Finding]:
    """What optional packages would enable; what the settings ask for has to be there."""
    try:
        extras = list(metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ())
    except metadata.PackageNotFoundError:
        return
    args = setup.args
    asked_for = {"ray": "executor ray"} if args.executor == "ray" else {}
    asked_for |= {"tracing": "otlp_endpoint"} if args.otlp_endpoint else {}
    for extra in extras:
        if extra in _NOT_OFFERED:
            continue
        wrong, what = list(_unmet(extra)), ENABLES.get(extra, extra)
        if not wrong:
            yield ok(f"extra {extra}", f"installed: {what}")
        elif extra in asked_for:
            yield failure(
                f"extra {extra}",
                f"{asked_for[extra]} needs {', '.join(wrong)}",
                f'pip install "{DISTRIBUTION}[{extra}]"',
            )
        else:
            yield ok(f"extra {extra}", f'not installed; pip install "{DISTRIBUTION}[{extra}]" enables {what}')


def check_media(setup: Setup) -> Iterator[Finding]:
    """What decodes videos and audio."""
    try:
        decoder = f"av {metadata.version('av')} decodes videos and audio, with FFmpeg inside"
    except metadata.PackageNotFoundError:
        yield warning("media", "av is not installed: tasks with videos cannot be evaluated", 'pip install "av>=14.2"')
        return
    program = shutil.which("ffmpeg")
    yield ok("media", f"{decoder}; the program ffmpeg, which is not needed: {program or 'not there'}")


def _unmet(extra: str) -> Iterator[str]:
    """The requirements of an extra that are not met, for ``server`` those of the base install too. Raises
    PackageNotFoundError."""
    texts = metadata.requires(DISTRIBUTION) or []
    try:
        from packaging.requirements import Requirement
    except ImportError:  # it comes with transformers
        yield "packaging"
        return
    for text in texts:
        requirement = Requirement(text)
        marker = requirement.marker
        if not (marker.evaluate({"extra": extra}) if marker is not None else extra == "server"):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name}{requirement.specifier}"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name}{requirement.specifier} (installed: {version})"

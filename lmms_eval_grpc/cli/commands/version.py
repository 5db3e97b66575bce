"""``version``: what is installed here."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from lmms_eval_grpc import __version__
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output

PACKAGES = ("grpcio", "protobuf", "rich", "torch", "transformers", "datasets")


def run(args: argparse.Namespace, output: Output) -> int:
    """Prints versions; those of packages that are not installed are left out."""
    versions = {"lmms-eval-grpc": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if output.as_json:
        output.document({"versions": versions})
    else:
        for name, version in versions.items():
            output.line(f"{name} {version}")
    return ExitCode.OK

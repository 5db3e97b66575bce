"""``info``: what the server is and can do."""

from __future__ import annotations

import argparse

from lmms_eval_grpc.cli.connection import connect
from lmms_eval_grpc.cli.devices import tabulate_slots
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.output import Output
from lmms_eval_grpc.cli.words import format_time, name_role, to_document


def run(args: argparse.Namespace, output: Output) -> int:
    """Versions, devices, abilities and limits."""
    with connect(args) as client:
        server = client.server_info()
        caller = client.whoami()
    if output.as_json:
        output.document({**to_document(server), "caller": to_document(caller)})
        return ExitCode.OK
    limits = ", ".join(f"{field.name} {value}" for field, value in server.limits.ListFields())
    facts = {
        "server": f"lmms-eval-grpc {server.version}",
        "address": args.address,
        "instance": server.instance_id,
        "started": format_time(server.start_time),
        "jobs started": str(server.jobs_started),
        "python": f"{server.python_version} on {server.platform}",
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(server.package_versions.items())),
        "executor": server.executor,
        "worker start": "warm template" if server.template_warm else "from nothing (the template is not ready)",
        "capabilities": ", ".join(server.capabilities),
        "limits": limits,
        "asks for": ", ".join(server.authentication) or "no credentials",
        "you are": f"{caller.name} ({name_role(caller.role)})",
    }
    for name, value in facts.items():
        output.line(f"{name:<12}  {value}")
    output.table(tabulate_slots(server.slots))
    return ExitCode.OK

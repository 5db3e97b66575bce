"""Measures the task index over an lmms-eval tree: cold (no cache) and warm, and the names and kinds that it has.

    python benchmarks/task_index.py LMMS_EVAL_FOLDER [--reference PYTHON] [--output FILE]

LMMS_EVAL_FOLDER is the package's folder, which holds ``tasks``. With ``--reference``, the interpreter of an environment
in which lmms-eval itself is installed, its own TaskManager is timed too and its names and kinds compared with ours.
Each time is of a process of its own, from its first line (imports included) to the finished index; the best of several.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNS = 3

OURS = """
import json, sys, time
started = time.perf_counter()
from pathlib import Path
from lmms_eval_grpc.engine.tasks.index import TaskIndex
imported = time.perf_counter()
index = TaskIndex.open([Path(sys.argv[1]) / "tasks"], include_defaults=False, cache_folder=Path(sys.argv[2]))
seconds = time.perf_counter() - imported
kinds = {entry.name: entry.kind for entry in index.entries()}
print(json.dumps({"seconds": seconds, "imports": imported - started, "kinds": kinds}))
"""

THEIRS = """
import json, sys, time
started = time.perf_counter()
from lmms_eval.tasks import TaskManager
imported = time.perf_counter()
manager = TaskManager("ERROR")
seconds = time.perf_counter() - imported
kinds = {name: entry["type"] for name, entry in manager.task_index.items()}
print("\\n" + json.dumps({"seconds": seconds, "imports": imported - started, "kinds": kinds}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of the lmms_eval package")
    parser.add_argument("--reference", type=Path, help="interpreter of an environment with lmms-eval installed")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    cold, warm = [], []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(run(sys.executable, OURS, str(arguments.folder), cache))
            warm.append(run(sys.executable, OURS, str(arguments.folder), cache))
    ours = cold[0]["kinds"]
    same = all(result["kinds"] == ours for result in (*cold, *warm))
    print(f"names: {len(ours)} = {describe(ours)}; {'the same' if same else 'NOT the same'} from the cache")
    figures = {"ours, cold": best(cold), "ours, warm": best(warm)}
    differing: set[str] = set()
    if arguments.reference is not None:
        theirs = [run(str(arguments.reference), THEIRS) for _ in range(RUNS)]
        figures["lmms-eval"] = best(theirs)
        kinds = theirs[0]["kinds"]
        differing = {name for name in ours.keys() | kinds.keys() if ours.get(name) != kinds.get(name)}
    for label, figure in figures.items():
        print(f"{label}: {figure['seconds']:.3f} s (and {figure['imports']:.3f} s of imports)")
    if arguments.reference is not None:
        print(f"names or kinds that differ: {len(differing)} {sorted(differing)[:10] if differing else ''}")
    if arguments.output is not None:
        document = {
            "what": f"index of lmms-eval's {len(ours)} task names, each time in a process of its own, best of {RUNS}",
            "unit": "seconds",
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg(),
            "platform": platform.platform(),
            "names": dict(Counter(ours.values())),
            "differing_names": sorted(differing) if arguments.reference is not None else None,
            "best": figures,
        }
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if same and not differing else 1


def best(results: list[dict[str, Any]]) -> dict[str, float]:
    """The times of the fastest run."""
    fastest = min(results, key=lambda result: result["seconds"])
    return {name: fastest[name] for name in ("seconds", "imports")}


def run(python: str, code: str, *arguments: str) -> dict[str, Any]:
    """The object that ``code`` prints as its last line."""
    result = subprocess.run([python, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def describe(kinds: dict[str, str]) -> str:
    return " + ".join(f"{count} {kind}" for kind, count in sorted(Counter(kinds.values()).items()))


if __name__ == "__main__":
    sys.exit(main())

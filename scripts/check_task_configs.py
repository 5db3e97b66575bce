"""Loads every task configuration of an lmms-eval tree as far as it goes without data, and lists what does not load.

    python scripts/check_task_configs.py LMMS_EVAL_FOLDER [--least 0.95] [--json FILE]

LMMS_EVAL_FOLDER is the package's folder, which holds ``tasks``. A configuration counts as loaded when its YAML file is
read with all includes, its functions are imported, and its metrics, filters, few-shot settings and model-specific
settings are built; only its documents are missing. Run it in an environment that has lmms-eval's own dependencies: many
tasks import them, and where lmms-eval is installed too it is asked whether it loads what this engine does not
(.venv-lmms-eval, which scripts/score_parity makes, is such an environment). Code that wants the key of a judge when it
is imported gets a placeholder, and nothing is downloaded.
Exits with 1 when fewer than the wanted share load.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PLACEHOLDERS = {"OPENAI_API_KEY": "unused", "Deepseek_API": "unused", "API_TYPE": "openai"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

CAUSES = (
    (
        "needs a download when it is imported",
        ("LocalEntryNotFound", "outgoing traffic has been disabled", "OfflineMode"),
    ),
    ("needs a package that is not installed", ("ModuleNotFoundError", "ImportError")),
    ("names a function that its file does not have", ("has no '",)),
    ("its code raises when it is imported", ("Error:",)),
)


def main() -> int:
    arguments = parse_arguments()
    os.environ.update(OFFLINE)
    for name, value in PLACEHOLDERS.items():
        os.environ.setdefault(name, value)
    failures, total = check(arguments.folder / "tasks")
    loaded = total - len(failures)
    print(f"{loaded} of {total} task configurations load ({loaded / total:.1%})")
    for cause, by_reason in sorted(grouped(failures).items()):
        print(f"\n{cause}: {sum(map(len, by_reason.values()))}")
        for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            print(f"  {len(names):3d}  {reason}\n       {shown}")
    reference = failures_of_lmms_eval(list(failures)) if importlib.util.find_spec("lmms_eval") else None
    if reference is not None:
        ours_alone = sorted(failures.keys() - reference.keys())
        print(f"\nof these {len(failures)} lmms-eval itself loads {len(ours_alone)}: {', '.join(ours_alone)}")
    if arguments.json:
        document = {
            "total": total,
            "loaded": loaded,
            "platform": platform.platform(),
            "failures": failures,
            "failures_of_lmms_eval": reference,
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if loaded >= arguments.least * total else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of the lmms_eval package")
    parser.add_argument("--least", type=float, default=0.95, help="share that must load (default 0.95)")
    parser.add_argument("--json", type=Path, help="where to write every failure with its whole reason")
    return parser.parse_args()


def check(tasks: Path) -> tuple[dict[str, str], int]:
    """Why each configuration that does not load does not, and how many configurations there are."""
    from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
    from lmms_eval_grpc.engine.tasks.index import TaskIndex
    from lmms_eval_grpc.engine.tasks.load import plan_task
    from lmms_eval_grpc.engine.tasks.resolve import resolve

    index = TaskIndex.scan([tasks], include_defaults=False)
    names = [entry.name for entry in index.entries() if entry.kind in ("task", "python_task")]
    failures: dict[str, str] = {}
    for name in names:
        config = EvaluationConfig("qwen2_5_vl", (name,))
        # Task code prints and logs whatever it likes.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                for resolved in resolve((name,), index).tasks:
                    plan_task(resolved, config)
            except EvaluationError as error:
                failures[name] = error.message.replace(str(tasks.parent), "…")
    return failures, len(names)


_ASK_LMMS_EVAL = """
import json, sys
from lmms_eval import utils
from lmms_eval.tasks import TaskManager
files = {name: entry["yaml_path"] for name, entry in TaskManager("ERROR").task_index.items()}
failures = {}
for name in json.load(sys.stdin):
    try:
        utils.load_yaml_config(files[name], mode="full")
    except Exception as error:
        failures[name] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(failures))
"""


def failures_of_lmms_eval(names: list[str]) -> dict[str, str]:
    """Those of the names whose file lmms-eval itself cannot read with its functions, and why.

    It is asked for no more than that: what it makes of a file that it can read may still fail later.
    """
    done = subprocess.run(
        [sys.executable, "-c", _ASK_LMMS_EVAL],
        input=json.dumps(names),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def grouped(failures: dict[str, str]) -> dict[str, dict[str, list[str]]]:
    """The tasks by cause and reason."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, reason in failures.items():
        cause = next((cause for cause, marks in CAUSES if any(mark in reason for mark in marks)), "is not accepted")
        line = " ".join(reason.split())
        found[cause][line if len(line) <= 240 else f"{line[:140]} … {line[-90:]}"].append(name)
    return found


if __name__ == "__main__":
    sys.exit(main())

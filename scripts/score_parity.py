"""Compares scores with lmms-eval's own; scripts/score_parity makes the environments and runs this.

    python scripts/score_parity.py --reference PYTHON [--record] [--work FOLDER]

PYTHON is the interpreter of an environment with lmms-eval. Two models answer, each on both sides:

reader
    A made-up model (tests/support/parity/reader.py), a plug-in of either side, which finds right and wrong answers in
    the pictures, films and recordings and words them in the ways of models. All tasks.
tiny Qwen2.5-VL
    A real model, trained for a minute to say what the reader said; lmms-eval runs it by its own backend
    ``qwen2_5_vl``, this engine by its own. The tasks with pictures. Then this engine once more, inside lmms-eval's
    environment and with lmms-eval's backend: equal answers, without exception.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
os.environ.update(OFFLINE, OMP_NUM_THREADS="1")

from tests.support.lmms_eval_files import PACKAGE, RELEASE  # noqa: E402
from tests.support.parity.comparison import compare, reason  # noqa: E402
from tests.support.parity.documents import TASKS, write_all  # noqa: E402
from tests.support.parity.golden import write_golden  # noqa: E402
from tests.support.parity.ours import AnsweringBackend, run  # noqa: E402
from tests.support.parity.reader import Reader  # noqa: E402
from tests.support.parity.recorded import Recorded  # noqa: E402

PICTURES = ("mme", "ai2d", "chartqa", "docvqa_val", "pope", "realworldqa")
"""Tasks for the real model: one picture and a short answer."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, help="interpreter of an environment with lmms-eval")
    parser.add_argument("--record", action="store_true", help="keep lmms-eval's results for the tests")
    parser.add_argument("--work", type=Path, help="folder to work in (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        return compare_both(work, arguments.reference.absolute(), record=arguments.record)


def compare_both(work: Path, python: Path, *, record: bool) -> int:
    data = work / "data"
    write_all(data)
    defects = 0

    print(f"\n== reader, a made-up model: {len(TASKS)} tasks and groups of lmms-eval {RELEASE}")
    names = [task.name for task in TASKS]
    theirs = run_theirs(python, work / "reader", data, "parity_reader", "", names)
    ours = run_ours(data, work / "reader" / "ours", names, backend=AnsweringBackend(Reader().answer))
    defects += report(theirs, ours)
    if record and not defects:
        write_golden(theirs)

    print(f"\n== tiny Qwen2.5-VL, a real model by either side's own backend: {len(PICTURES)} tasks")
    checkpoint = train(python, work / "qwen", data, theirs)
    settings: dict[str, Any] = {"pretrained": str(checkpoint), "min_pixels": 56 * 56, "max_pixels": 224 * 224}
    text = ",".join(f"{key}={value}" for key, value in {**settings, "device_map": "cpu"}.items())
    theirs = run_theirs(python, work / "qwen", data, "qwen2_5_vl", text, PICTURES)
    ours = run_ours(
        data,
        work / "qwen" / "ours",
        PICTURES,
        backend=None,
        model="qwen2_5_vl",
        model_args={**settings, "dtype": "bfloat16"},
    )
    defects += report(theirs, ours)

    print("\n== tiny Qwen2.5-VL, this engine in lmms-eval's environment with lmms-eval's own backend, beside ours")
    borrowed = in_reference(
        python, work / "borrowed", data, "borrow", "lmms_eval:qwen2_5_vl", json.dumps(settings), *PICTURES
    )
    defects += report_equal(ours, borrowed)
    print(f"\n{defects} differences that docs/compatibility.md does not list")
    return 1 if defects else 0


def run_ours(*arguments: Any, **settings: Any) -> Recorded:
    """What this engine makes of lmms-eval's task files; see :func:`tests.support.parity.ours.run`."""
    with contextlib.redirect_stdout(io.StringIO()):  # task code prints whatever it likes
        return run(*arguments, definitions=PACKAGE / "tasks", **settings)


def run_theirs(python: Path, work: Path, data: Path, model: str, model_args: str, tasks: Sequence[str]) -> Recorded:
    """What lmms-eval makes of the tasks, in a process of its own environment."""
    results: Recorded = in_reference(python, work, data, "evaluate", model, model_args, *tasks)
    return results


def train(python: Path, work: Path, data: Path, said: Recorded) -> Path:
    """A tiny checkpoint that learned the reader's answers to :data:`PICTURES`."""
    work.mkdir(parents=True, exist_ok=True)
    answers = {
        task: {sample["doc_id"]: sample["responses"][0] for sample in said[task]["samples"]} for task in PICTURES
    }
    (work / "answers.json").write_text(json.dumps(answers))
    outcome = in_reference(python, work, data, "train", str(work / "checkpoint"), str(work / "answers.json"))
    print(f"trained for {outcome['seconds']:.0f} s, {outcome['steps']} steps, to a loss of {outcome['loss']:.4f}")
    return work / "checkpoint"


def in_reference(python: Path, work: Path, data: Path, *arguments: str) -> Any:
    """What scripts/score_parity_reference.py writes. What it prints goes to a file, which is shown if it fails."""
    work.mkdir(parents=True, exist_ok=True)
    output, log = work / "theirs.json", work / "theirs.log"
    environment = {**os.environ, "HF_HOME": str(data / "home"), "OPENAI_API_KEY": "none"}
    command = [str(python), str(ROOT / "scripts" / "score_parity_reference.py"), str(data), str(output), *arguments]
    with log.open("w") as file:
        done = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise SystemExit(f"lmms-eval's side failed ({arguments[0]}):\n{log.read_text()[-4000:]}")
    return json.loads(output.read_text())


def report_equal(ours: Recorded, borrowed: Recorded) -> int:
    """Prints whether two models behind one engine did the same; here no difference is meant."""
    differences = list(compare(ours, borrowed))
    for difference in differences[:40]:
        print(f"  DIFFERENT  {difference}")
    answers = [
        (mine["responses"], other["responses"])
        for name in ours
        for mine, other in zip(ours[name]["samples"], borrowed[name]["samples"], strict=True)
    ]
    print(f"  {sum(mine == other for mine, other in answers)} of {len(answers)} answers equal, word for word")
    return len(differences)


def report(theirs: Recorded, ours: Recorded) -> int:
    """Prints what was compared and what differs; the number of differences that are not meant."""
    kinds = {task.name: task.kind for task in TASKS}
    samples: Counter[str] = Counter()
    meant: Counter[str] = Counter()
    defects = []
    for difference in compare(theirs, ours):
        known = reason(difference)
        if known is None:
            defects.append(difference)
        else:
            meant[known.row] += 1
    for name, result in theirs.items():
        samples[name] = len({sample["doc_id"] for sample in result["samples"]})
        values = [
            f"{key.removesuffix(',none')} {value:.4g}"
            for key, value in result["results"].items()
            if "_stderr" not in key and isinstance(value, int | float)
        ]
        label = f"{name} ({kinds[name]})" if name in kinds else name
        print(f"  {label}: {samples[name]} documents; {', '.join(values[:3])}{', …' if len(values) > 3 else ''}")
    print(f"  {sum(samples.values())} documents; aggregates and scores equal within 1e-9 but for what follows")
    for row, count in meant.most_common():
        print(f"  {count:4d} as docs/compatibility.md says under: {row}")
    for difference in defects[:40]:
        print(f"  DIFFERENT  {difference}")
    return len(defects)


if __name__ == "__main__":
    sys.exit(main())

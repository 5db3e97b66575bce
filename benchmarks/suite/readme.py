"""The part of the project's README that tells how fast it is, written from the kept figures.

    python -m benchmarks.suite.readme [FOLDER]

``FOLDER``: of the figures; default: the one that the README names now.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.suite import report
from benchmarks.suite.cases import CASES
from benchmarks.suite.figures import LOOP, OURS
from benchmarks.suite.inputs import ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- figures of ", "<!-- end of the figures -->"


def section(cases: Sequence[dict[str, Any]], missing: Sequence[str], folder: str) -> str:
    """Markdown of what lies between the marks: the headlines, and where we do not win. ``folder``: of the figures,
    from the project's root."""
    if not cases:
        return "No figures are kept yet; `scripts/benchmark` takes them.\n"
    names: dict[str, list[str]] = {}
    for case in cases:
        names.setdefault(report.told(case), []).append(case["name"])
    taken = [how if len(names) == 1 else f"{', '.join(of)}: {how}" for how, of in names.items()]
    lines = [
        "Medians; the two sides took turns on one machine, with one thread for the model, as often as the column of"
        f" runs says (here / there). Taken {'; '.join(taken)}. [All figures, their spread, and what is compared in"
        f" each]({folder}/README.md).",
        "",
        "| | here | lmms-eval | ratio | runs | target |",
        "|---|---:|---:|---:|---:|---|",
    ]
    told = [comparison for case in cases for comparison in case["comparisons"]]
    lines += [_row(comparison) for comparison in told if "headline" in comparison]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", "Where we do not win:", ""]
    lines += [_loss(comparison) for comparison in told if comparison["lost"]] or ["- In nothing that was measured."]
    return "\n".join(lines) + "\n"


def _row(told: dict[str, Any]) -> str:
    ours, other = told.get("ours"), told.get("other")
    here = report.quantity(ours["median"], ours["unit"]) if ours else ""
    there = report.quantity(other["median"], other["unit"]) if other else ""
    if other and other["system"] == LOOP:
        there = f"loop: {there}"
    value = report.quantity(told["value"], told["unit"])
    target = ""
    if "target" in told:
        target = f"{told['target']} {told['unit']}".rstrip() + (": met" if told["met"] else ": **missed**")
    shown = value if value != here else ""
    return f"| {told['headline']} | {here} | {there} | {shown} | {report.runs(told)} | {target} |"


def _loss(told: dict[str, Any]) -> str:
    sides = [told[side] for side in ("ours", "other") if side in told]
    figures = ", ".join(
        f"{'here' if side['system'] == OURS else side['system']} {report.quantity(side['median'], side['unit'])}"
        for side in sides
    )
    aim = f", where the target is {told['target']}" if told.get("met") is False else ""
    why = f": {told['why']}" if "why" in told else ""
    return f"- {told['title']}, {report.quantity(told['value'], told['unit'])}{aim} ({figures}){why}."


def written(text: str, folder: Path | None = None) -> str:
    """A README's text with its part written anew, from ``folder`` or from the one that it names."""
    before, _, rest = text.partition(BEGIN)
    named, _, rest = rest.partition(" -->\n")
    _, _, after = rest.partition(END)
    if folder is not None:
        named = folder.resolve().relative_to(ROOT).as_posix()
    kept = ROOT / named
    cases = report.read(kept, list(CASES))
    missing = [name for name in CASES if name not in {case["name"] for case in cases}]
    return f"{before}{BEGIN}{named} -->\n{section(cases, missing, named)}{END}{after}"


def update(folder: Path | None = None) -> None:
    """Writes the project's README."""
    README.write_text(written(README.read_text(), folder))


if __name__ == "__main__":
    update(Path(sys.argv[1]) if len(sys.argv) > 1 else None)

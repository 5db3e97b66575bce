"""The files that a run leaves: JSON for each case, one Markdown table, plots."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.suite.figures import OURS, THEIRS, CaseResult
from benchmarks.suite.inputs import REFERENCE, ROOT

_PACKAGES = ("torch", "transformers", "datasets", "grpcio", "protobuf", "numpy")
_COLOURS = {OURS: "#1b7f5c", THEIRS: "#c4622d"}
_OTHER = "#777777"
_SECONDS = {"s": 1.0, "ms": 0.001}
_VERDICT = {True: "met", False: "**missed**", None: ""}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    names = ("lmms-eval", *_PACKAGES[:3])
    asked = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    their = json.loads(subprocess.run([REFERENCE, "-c", asked], check=True, capture_output=True, text=True).stdout)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": gpu(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "lmms_eval_versions": their,
    }


def gpu() -> str:
    """What the machine has; empty: none. Nothing here uses it."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else ""


def told(case: dict[str, Any]) -> str:
    """When, on what, and of which code a case's figures were taken, for people."""
    facts = case["machine"]
    accelerator = f"its {facts['gpu']} unused" if facts["gpu"] else "no GPU"
    return (
        f"{facts['date']}, {facts['cpus']} cores ({facts['processor']}), {facts['memory_bytes'] >> 30} GiB,"
        f" {accelerator}, lmms-eval {facts['lmms_eval_versions']['lmms-eval']}, our commit {facts['commit']}"
        + (", a quick run of few rounds" if case["quick"] else "")
    )


def _commit() -> str:
    """Of the code, with a mark where files other than figures differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, check=False, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!README.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def write(folder: Path, facts: dict[str, Any], result: CaseResult) -> None:
    """Keeps one case's figures, in place of earlier ones."""
    text = json.dumps({"machine": facts, **result.summary()}, indent=1, ensure_ascii=False)
    (folder / f"{result.name}.json").write_text(text + "\n")


def forget(folder: Path, name: str) -> None:
    """Removes what was kept of a case: it has failed since."""
    for kind in ("json", "png"):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)


def read(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The cases that have been kept, by name."""
    return [json.loads((folder / f"{name}.json").read_text()) for name in names if (folder / f"{name}.json").exists()]


def table(cases: Sequence[dict[str, Any]], missing: Sequence[str] = ()) -> str:
    """Every case in Markdown: all targets first, then what is compared, the ratios, and all that was measured.
    ``missing``: names of cases that have not been run."""
    lines = ["# Beside lmms-eval", "", "## Targets", ""]
    lines += ["| ratio or figure | median | target | | case |", "|---|---:|---|---|---|"]
    for case in cases:
        for compared in case["comparisons"]:
            if "target" in compared:
                median, verdict = quantity(compared["value"], compared["unit"]), _VERDICT[compared["met"]]
                lines.append(f"| {compared['title']} | {median} | {compared['target']} | {verdict} | {case['name']} |")
    lines += ["", *([f"Not run yet: {', '.join(missing)}.", ""] if missing else [])]
    for case in cases:
        load = case["load_average"][0]
        lines += [f"## {case['title']}", "", case["what"], ""]
        lines += [
            f"Taken {told(case)}; load average {load:.1f} before, {case['seconds']:.0f} s in all.",
            "",
        ]
        if case["comparisons"]:
            lines += ["| ratio or figure | median | least – most | runs | target | |", "|---|---:|---:|---:|---:|---|"]
            lines += [_comparison(comparison) for comparison in case["comparisons"]]
            lines += [""]
        lines += ["| measured | system | median | least – most | CPU s | times |", "|---|---|---:|---:|---:|---:|"]
        lines += [_series(series) for series in case["series"]]
        lines += ["", *(f"- {note}" for note in case["notes"]), *([""] if case["notes"] else [])]
    return "\n".join(lines).rstrip() + "\n"


def _comparison(told: dict[str, Any]) -> str:
    spread = f"{_number(told['least'])} – {_number(told['most'])}" if "least" in told else ""
    median = quantity(told["value"], told["unit"])
    verdict = _VERDICT[told.get("met")]
    return f"| {told['title']} | {median} | {spread} | {runs(told)} | {told.get('target', '')} | {verdict} |"


def runs(told: dict[str, Any]) -> str:
    """How often each side of a comparison was measured: ours / the other."""
    return " / ".join(str(told[side]["times"]) for side in ("ours", "other") if side in told)


def quantity(value: float, unit: str) -> str:
    """For people."""
    return f"{_number(value)} {unit}".rstrip()


def _series(told: dict[str, Any]) -> str:
    what = told["quantity"] + (f" ({told['note']})" if "note" in told else "")
    cpu = _number(told["cpu_median"]) if "cpu_median" in told else ""
    spread = f"{_number(told['least'])} – {_number(told['most'])}"
    median = quantity(told["median"], told["unit"])
    return f"| {what} | {told['system']} | {median} | {spread} | {cpu} | {len(told['values'])} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def plot(folder: Path, case: dict[str, Any]) -> None:
    """A bar for each time that was measured: the median, a line from the least to the most; a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    shown = [series for series in case["series"] if series["unit"] in _SECONDS and series["least"] > 0]
    if not shown:
        return
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.3 * len(shown)), layout="constrained")
    labels = []
    for number, series in enumerate(shown):
        least, median, most = (series[name] * _SECONDS[series["unit"]] for name in ("least", "median", "most"))
        system = series["system"]
        known = any(earlier["system"] == system for earlier in shown[:number])
        axes.barh(number, median, color=_COLOURS.get(system, _OTHER), height=0.7, label=None if known else system)
        axes.plot([least, most], [number, number], color="black", linewidth=1)
        told = quantity(series["median"], series["unit"])
        beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(told, (max(median, most), number), **beside)
        # Of two systems side by side the first one's name stands for both.
        above = shown[number - 1] if number else {"quantity": ""}
        labels.append("" if above["quantity"] == series["quantity"] else series["quantity"])
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    values = [series[name] * _SECONDS[series["unit"]] for series in shown for name in ("least", "most")]
    # Whole decades below the least and room for the longest bar's figure.
    axes.set_xlim(10 ** math.floor(math.log10(min(values) / 2)), max(values) * 4)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _time(value)))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_title(case["title"] + " (logarithmic scale)", fontsize=10)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / f"{case['name']}.png", dpi=110)
    pyplot.close(figure)


def _time(seconds: float) -> str:
    return next(
        f"{seconds / size:g} {unit}" for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)) if seconds >= 0.999 * size
    )

"""The whole service in one sitting: a server, a training run that submits its checkpoints to it, and the curve.

Run it with ``scripts/quickstart``, which installs what it needs. All that it makes lies in one folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lmms_eval_grpc import EvalClient

TASK = "handwritten_digits"
METRIC = "exact_match"
MODEL = "idefics3"
GOOD_SCORE = 0.90
"""What the last two checkpoints must reach."""
POOR_SCORE = 0.50
"""What the untrained model must stay under."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("quickstart-output"), help="folder for all that is made")
    parser.add_argument("--steps", type=int, default=300, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    console = Console()

    with serving(output) as address:
        console.print(f"A server listens on [bold]{address}[/]. Training starts; every checkpoint is submitted to it.")
        results, training_ended = train(address, output, arguments.steps, arguments.seed, console)

    write_results(output / "results.json", results, training_ended)
    plot_curve(output / "curve.png", results)
    problems = find_problems(results, training_ended)
    print_next_steps(console, output, results)
    for problem in problems:
        console.print(f"[bold red]Not as it should be:[/] {problem}")
    return 1 if problems else 0


@contextmanager
def serving(output: Path) -> Iterator[str]:
    """A server process on a free loopback port; yields its address."""
    address_file = output / "address"
    address_file.unlink(missing_ok=True)
    log_file = output / "server.log"
    with log_file.open("w") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "lmms_eval_grpc", "serve", "--port", "0"),
                *("--state-dir", str(output / "state"), "--address-file", str(address_file)),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        while not address_file.exists():
            if server.poll() is not None:
                raise SystemExit(f"the server did not start:\n{log_file.read_text()[-2000:]}")
            time.sleep(0.05)
        address = address_file.read_text().strip()
        with EvalClient(address) as client:
            client.wait_for_ready(timeout=60)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


def train(address: str, output: Path, steps: int, seed: int, console: Console) -> tuple[Sequence[Any], float]:
    """Trains with a callback that submits each checkpoint; returns what came of them, and when training ended."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "clients" / "python"))
    from transformers import TrainerCallback

    import train_digits
    from lmms_eval_grpc.integrations.transformers import EvalServiceCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        ended = 0.0

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.time()

    clock = Clock()
    service = EvalServiceCallback(address, model=MODEL, tasks=[TASK], labels={"run": "quickstart"})
    table = Live(console=console, refresh_per_second=4, get_renderable=lambda: checkpoint_table(service.results))
    with table:
        # The clock comes first: the service's callback waits for outstanding results when training ends.
        train_digits.train(output / "checkpoints", steps=steps, seed=seed, callbacks=[clock, service], quiet=True)
    return service.results, clock.ended


def checkpoint_table(results: Sequence[Any]) -> Table:
    table = Table(title=f"{TASK}: {METRIC} on the test split, while training goes on")
    for heading in ("step", "state", "accuracy", "95 % interval", "samples/s", "turnaround"):
        table.add_column(heading, justify="left" if heading == "state" else "right")
    for result in results:
        metric = find_metric(result)
        table.add_row(
            str(result.step),
            result.state,
            f"{metric.value:.3f}" if metric else "",
            f"{metric.lower:.3f} – {metric.upper:.3f}" if metric and metric.lower is not None else "",
            f"{result.samples_per_second:.0f}" if result.samples_per_second else "",
            f"{result.finished - result.submitted:.1f} s" if result.finished else "",
        )
    return table


def find_metric(result: Any) -> Any:
    """The checkpoint's score, once it is there."""
    return next((m for m in result.metrics if m.task == TASK and m.name == METRIC), None)


def write_results(file: Path, results: Sequence[Any], training_ended: float) -> None:
    document = {
        "task": TASK,
        "metric": METRIC,
        "training_ended": training_ended,
        "checkpoints": [dataclasses.asdict(result) for result in results],
    }
    file.write_text(json.dumps(document, indent=1, default=str) + "\n")


def plot_curve(file: Path, results: Sequence[Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scored = [(result.step, metric) for result in results if (metric := find_metric(result)) is not None]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    steps = [step for step, _ in scored]
    values = [metric.value for _, metric in scored]
    # The interval of an accuracy near 0 or 1 may reach outside; the axis does not.
    below = [
        value - (value if metric.lower is None else metric.lower)
        for value, (_, metric) in zip(values, scored, strict=True)
    ]
    above = [
        (value if metric.upper is None else metric.upper) - value
        for value, (_, metric) in zip(values, scored, strict=True)
    ]
    axes.errorbar(steps, values, yerr=[below, above], marker="o", capsize=4)
    axes.set(
        xlabel="training step",
        ylabel=f"{TASK} {METRIC}",
        ylim=(-0.02, 1.02),
        title="Every checkpoint, with its 95 % interval",
    )
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=150)


def find_problems(results: Sequence[Any], training_ended: float) -> list[str]:
    """What a healthy run would not show; empty when all is well."""
    problems = [
        f"step {r.step}: job {r.job_id or '(none)'} is {r.state}: {r.error}" for r in results if r.state != "completed"
    ]
    if problems:
        return problems
    scores = [find_metric(result).value for result in results]
    if len(scores) < 3:
        return [f"only {len(scores)} checkpoints were evaluated"]
    if scores[0] > POOR_SCORE:
        problems.append(f"the untrained model scores {scores[0]:.3f}, more than {POOR_SCORE}")
    problems += [
        f"a last checkpoint scores {score:.3f}, less than {GOOD_SCORE}" for score in scores[-2:] if score < GOOD_SCORE
    ]
    if not any(result.started and result.started < training_ended for result in results):
        problems.append("no job started before training had ended")
    return problems


def print_next_steps(console: Console, output: Path, results: Sequence[Any]) -> None:
    job_id = next((result.job_id for result in reversed(results) if result.job_id), "JOB_ID")
    best = max(results, key=lambda result: (metric.value if (metric := find_metric(result)) else -1.0, result.step))
    service = "lmms_eval_grpc.v1.EvaluationService"
    console.print(
        f"\nThe curve is in {output / 'curve.png'}, the results in {output / 'results.json'}."
        "\n\nThe jobs are kept. Serve them again, and try in another terminal:\n",
        highlight=False,
    )
    # Plain print: a line that is to be copied must not be wrapped.
    print(f"  . .venv/bin/activate\n  lmms-eval-grpc serve --state-dir {output / 'state'}\n")
    print("  # the command line")
    print(f"  lmms-eval-grpc jobs\n  lmms-eval-grpc job {job_id}\n  lmms-eval-grpc samples {job_id} -n 3")
    print(f"  lmms-eval-grpc submit --watch --model {MODEL} --model_args pretrained={best.checkpoint} --tasks {TASK}\n")
    python = (
        f'from lmms_eval_grpc import EvalClient; print(EvalClient("localhost:50051").get_job("{job_id}")["status"])'
    )
    print(f"  # Python\n  python -c '{python}'\n")
    print("  # grpcurl, or buf curl --protocol grpc --http2-prior-knowledge --data '...' http://localhost:50051/...")
    print(f"  grpcurl -plaintext localhost:50051 list {service}")
    print(f"""  grpcurl -plaintext -d '{{"job_id": "{job_id}"}}' localhost:50051 {service}/WatchJob\n""")


if __name__ == "__main__":
    sys.exit(main())

"""How long one small job takes, from submission to its terminal event, and where the time goes.

Starts a server of its own, waits until the template is warm, then submits one job after another: 8 samples of the
shipped ``handwritten_digits`` task on an untrained tiny Idefics3. All times are seconds.

    python benchmarks/turnaround.py --jobs 9
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from lmms_eval_grpc import EvalClient

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "clients" / "python"))

STAGES = ("preparing", "loading_model", "generating", "scoring", "writing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--jobs", type=int, default=9, help="measured jobs (default: %(default)s), after two unmeasured"
    )
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(Path(folder) / "checkpoint")
        runs = measure(Path(folder), checkpoint, arguments.jobs, arguments.samples)
    names = list(runs[0])
    print(f"{'':16}{'median':>9}{'min':>9}{'max':>9}")
    for name in names:
        values = [run[name] for run in runs]
        print(f"{name:16}{statistics.median(values):9.3f}{min(values):9.3f}{max(values):9.3f}")
    if arguments.output:
        figures = {
            "what": f"{arguments.samples}-sample handwritten_digits job on an untrained tiny Idefics3, template warm",
            "unit": "seconds",
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg(),
            "platform": platform.platform(),
            "versions": {name: version(name) for name in ("torch", "transformers", "grpcio", "protobuf")},
            "median": {name: statistics.median(run[name] for run in runs) for name in names},
            "runs": runs,
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


def make_checkpoint(folder: Path) -> Path:
    from tiny_vlm import build_model, build_processor

    processor = build_processor()
    build_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def measure(folder: Path, checkpoint: Path, jobs: int, samples: int) -> list[dict[str, float]]:
    """Figures per job, in seconds."""
    address_file = folder / "address"
    flags = ("--port", "0", "--state-dir", str(folder / "state"), "--address-file", str(address_file))
    launched = time.perf_counter()
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "lmms_eval_grpc", "serve", *flags], stdout=log, stderr=log)
    try:
        while not address_file.exists():
            if server.poll() is not None:
                raise SystemExit((folder / "server.log").read_text())
            time.sleep(0.005)
        with EvalClient(address_file.read_text().strip()) as client:
            client.wait_for_ready(timeout=60)
            print(f"server ready after {time.perf_counter() - launched:.2f} s")
            while not client.server_info().template_warm:
                time.sleep(0.05)
            print(f"template warm after {time.perf_counter() - launched:.2f} s")
            return [measure_job(client, checkpoint, samples) for _ in range(jobs + 2)][2:]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


def measure_job(client: EvalClient, checkpoint: Path, samples: int) -> dict[str, float]:
    begin = time.perf_counter()
    submitted = client.evaluate(
        model="idefics3",
        model_args={"pretrained": str(checkpoint)},
        tasks=["handwritten_digits"],
        limit=samples,
    )
    answered = time.perf_counter()
    for _ in client.watch_job(submitted["job_id"]):
        pass
    ended = time.perf_counter()
    job = client.get(submitted["job_id"])
    if not job.HasField("evaluation_result"):
        raise SystemExit(f"the job did not complete: {job.error.message}\n{job.error.log_tail}")
    elapsed = job.evaluation_result.throughput.stage_elapsed
    stages = {name: elapsed[name].ToTimedelta().total_seconds() for name in STAGES if name in elapsed}
    total = ended - begin
    return {
        "total": total,
        "submit": answered - begin,
        **stages,
        # Fork, socket, journal, watch: all that is neither the submission nor the engine.
        "service": total - (answered - begin) - sum(stages.values()),
    }


if __name__ == "__main__":
    main()

"""``eval``: a real model on the digits, in a process of its own, as lmms-eval's users would run it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_eval_grpc.cli.exit_codes import ExitCode
from tests.cli.conftest import TASK, command, run_on_terminal
from tests.support.task_files import QUESTIONS, write_task, write_yaml

PATIENCE = 240.0


def run(env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), env=dict(env), capture_output=True, text=True, timeout=PATIENCE, check=False)


def model(checkpoint: Path) -> tuple[str, ...]:
    return ("--model", "idefics3", "--model_args", f"pretrained={checkpoint}")


def read_results(folder: Path) -> dict[str, Any]:
    """The one results document in or below the folder."""
    (path,) = folder.rglob("*_results.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_lmms_evals_command_line_without_a_command(
    manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = run(
        manners,
        *model(tiny_checkpoint),
        *("--tasks", TASK, "--limit", "4", "--offset", "2", "--output_path", str(tmp_path / "out"), "--log_samples"),
        *("--timezone", "Asia/Kathmandu", "--system_instruction", "be brief, api_key=abc123", "--write_out"),
        *("--cache_requests", "true", "--show_config"),
    )
    assert done.returncode == ExitCode.OK, done.stderr
    table = done.stdout.splitlines()
    assert table[0].split()[:2] == ["task", "metric"]
    assert table[1].split()[:2] == [TASK, "exact_match"]
    assert '"max_new_tokens": 4' in done.stdout, "--show_config prints the task's configuration"
    assert "generating" in done.stderr
    for flag in ("--write_out", "--cache_requests"):
        assert f"note: {flag} " in done.stderr
    document = read_results(tmp_path / "out")
    assert document["n-samples"][TASK]["effective"] == 4
    asked = document["config"]["resolved_cli_args"]
    assert asked["limit"] == 4
    assert asked["batch_size"] == "1"
    assert asked["seed"] == "0,1234,1234,1234"
    assert "abc123" not in json.dumps(document)
    (path,) = (tmp_path / "out").rglob("*_results.json")
    utc = time.strftime("%Y%m%d_%H%M", time.gmtime(document["start_time"]))
    assert not path.name.startswith(utc), "Kathmandu's clocks are a quarter of an hour off"
    (samples,) = (tmp_path / "out").rglob("*_samples_*.jsonl")
    assert [json.loads(line)["doc_id"] for line in samples.read_text().splitlines()] == [2, 3, 4, 5]
    assert not list((tmp_path / "out").glob(".*")), "nothing is left of the run's own files"


def test_several_devices(manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = (*model(tiny_checkpoint), "--tasks", TASK, "--limit", "6", "--output_path", str(tmp_path / "out"))
    done = run(manners, "eval", *words, "--num_gpus", "2", "--device", "cpu")
    assert done.returncode == ExitCode.OK, done.stderr
    document = read_results(tmp_path / "out")
    assert document["manifest"]["device"]["replicas"] == 2
    assert document["n-samples"][TASK]["effective"] == 6
    wrong = run(manners, "eval", *words, "--num_gpus", "0")
    assert wrong.returncode == ExitCode.USAGE
    assert "num_gpus: num_gpus must be a whole number, at least 1, but is 0" in wrong.stderr


def test_ctrl_c_keeps_what_was_answered(manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Random weights never stop by themselves, so each answer takes all of its tokens.
    words = (
        *("eval", *model(tiny_checkpoint), "--tasks", TASK, "--limit", "40", "--gen_kwargs", "max_new_tokens=80"),
        *("--output_path", str(out)),
    )
    process = subprocess.Popen(
        command(*words), env=manners, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + PATIENCE
    while count_answers(out) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = run(manners, *words)
    assert second.returncode == ExitCode.USAGE, "two processes must not share a run log"
    assert "another process" in second.stderr
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.INTERRUPTED, printed
    assert "run the same command again" in printed
    assert not list(out.rglob("*_results.json"))
    kept = count_answers(out)
    assert 5 <= kept < 40
    status, shown = run_on_terminal(command(*words), manners, patience=PATIENCE)
    assert status == ExitCode.OK, shown
    assert "evaluation  running" in shown, "on a terminal there are bars"
    assert "exact_match" in shown
    assert read_results(out)["throughput"]["samples_resumed"] == kept
    assert read_results(out)["n-samples"][TASK]["effective"] == 40
    assert not (out / ".unfinished").exists()


def count_answers(out: Path) -> int:
    return sum(path.read_text().count('"kind": "answer"') for path in out.rglob("run_log.jsonl"))


TOLD = """
def process(doc, results):
    return {"seen": 1.0 if "image" in doc else 0.0}


def told(items, args):
    assert args.log_samples_suffix == "mine", args
    return sum(items) / len(items)
"""
TOLD_KEYS = """
doc_to_visual: !function utils.picture
process_results: !function utils.process
metric_list: [{metric: seen, aggregation: !function utils.told, higher_is_better: true}]
generation_kwargs: {max_new_tokens: 2}
"""


def test_files_and_folders_of_tasks_and_what_their_functions_get(
    manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import datasets
    from PIL import Image

    documents = [{**row, "image": Image.new("L", (8, 8), 9)} for row in QUESTIONS]
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.Value("string"), "image": datasets.Image()}
    )
    picture = "\n\ndef picture(doc):\n    return [doc['image'].convert('RGB')]\n"
    folder = tmp_path / "mine"
    write_task(folder, TOLD_KEYS, documents=documents, features=features, utils=TOLD + picture)
    write_yaml(folder, "both.yaml", "group: both\ntask: [toy]\naggregate_metric_list: [{metric: seen}]\n")
    other = write_task(tmp_path / "other", "generation_kwargs: {max_new_tokens: 2}\n", name="alone")
    write_yaml(folder, "notes.yaml", "just: notes\n")
    done = run(
        manners,
        *("eval", *model(tiny_checkpoint), "--tasks", str(folder), "--tasks", str(other), "--json"),
        *("--process_with_media", "--log_samples_suffix", "mine", "--batch-size", "auto"),
    )
    assert done.returncode == ExitCode.OK, done.stderr
    results = json.loads(done.stdout)["results"]
    assert set(results) == {"toy", "both", "alone"}
    assert results["toy"]["seen,none"] == 1.0
    assert results["both"]["seen,none"] == 1.0


def test_every_mistake_is_named_at_once(manners: dict[str, str], tmp_path: Path) -> None:
    done = run(
        manners,
        *("--model", "idefiks3", "--tasks", f"nope,{TASK}", "--limit", "-3", "--offset", "-1", "--seed", "1,x"),
        *("--fewshot_as_multiturn", "--log_samples", "--batch_size", "many", "--gen_kwargs", "temperature"),
        *("--timezone", "Mars", "--tui", "--launcher_args", "name=sglang", "--swanlab_args", "project=x"),
        *("--hf_hub_log_args", "push_samples_to_hub=true", "--wandb_log_samples"),
    )
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    named = {line.split(":")[0].strip() for line in done.stderr.splitlines() if line.startswith("  ")}
    assert named >= {
        *("model", "tasks[0]", "limit", "offset", "seed", "fewshot_as_multiturn", "log_samples", "batch_size"),
        *("gen_kwargs", "timezone", "tui", "launcher_args", "swanlab_args", "hf_hub_log_args", "wandb_log_samples"),
    }
    assert "'idefics3'" in done.stderr, "the nearest name is told"


def test_an_unknown_task_may_be_in_a_file_that_could_not_be_read(manners: dict[str, str], tmp_path: Path) -> None:
    write_yaml(tmp_path / "broken", "a.yaml", "task: brk1\ninclude: nofile.yaml\n")
    write_yaml(tmp_path / "broken", "b.yaml", "task: brk2\n  bad: [\n")
    write_yaml(tmp_path / "broken", "c.yaml", "task: brk3\n")
    where = ("--include_path", str(tmp_path / "broken"))
    done = run(manners, "eval", "--model", "openai", *where, "--tasks", "brk2")
    assert done.returncode == ExitCode.USAGE
    told = "tasks[0]: unknown task 'brk2'; it may be in what could not be read"
    assert f"{told} ({tmp_path}/broken/a.yaml: include 'nofile.yaml': no such file" in done.stderr
    assert f"{tmp_path}/broken/b.yaml: not valid YAML" in done.stderr
    assert "did you mean 'brk3'" in done.stderr
    listed = run(manners, "tasks", *where, "brk")
    assert f"not used: {tmp_path}/broken/a.yaml: include 'nofile.yaml'" in listed.stderr


def test_as_json_the_mistakes_are_a_list(manners: dict[str, str]) -> None:
    done = run(manners, "--json", "--model", "idefics3", "--tasks", "nope")
    assert done.returncode == ExitCode.USAGE
    violations = json.loads(done.stderr)["error"]["violations"]
    assert {"model_args.pretrained", "tasks[0]"} == {violation["field"] for violation in violations}


def test_a_failure_is_no_success_and_debug_tells_where(
    manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    broken = [*QUESTIONS[:3], {"question": "q3", "answer": None}, *QUESTIONS[4:]]
    functions = "\n\ndef ask(doc):\n    return doc['answer'].upper()\n"
    file = write_task(tmp_path / "mine", "doc_to_text: !function utils.ask\n", documents=broken, utils=functions)
    done = run(
        manners,
        *("eval", *model(tiny_checkpoint), "--tasks", str(file), "--check_integrity", "--verbosity", "debug"),
    )
    assert done.returncode == ExitCode.JOB_FAILED
    assert "failed (INTEGRITY): 1 documents are broken: task toy, document 3" in done.stderr
    assert "Traceback" in done.stderr
    assert "loading model" not in done.stderr
    assert done.stdout == ""


def test_a_task_cannot_end_the_process_as_if_all_were_well(
    manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    functions = "import sys\n\n\ndef ask(doc):\n    sys.exit(0)\n"
    file = write_task(tmp_path / "mine", "doc_to_text: !function utils.ask\n", utils=functions)
    done = run(manners, "eval", *model(tiny_checkpoint), "--tasks", str(file))
    assert done.returncode == ExitCode.JOB_FAILED
    assert "failed (PROCESS_EXIT)" in done.stderr


def test_listings_instead_of_tasks(manners: dict[str, str]) -> None:
    for word, kind in (("list", None), ("list_groups", "GROUP"), ("list_tags", "TAG"), ("list_subtasks", "TASK")):
        done = run(manners, "eval", "--tasks", word, "--json")
        assert done.returncode == ExitCode.OK, done.stderr
        kinds = {task["kind"] for task in json.loads(done.stdout)["tasks"]}
        assert kinds == ({f"TASK_KIND_{kind}"} if kind else {"TASK_KIND_TASK", "TASK_KIND_GROUP", "TASK_KIND_TAG"})


def test_results_and_samples_go_to_weights_and_biases(
    manners: dict[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = run(
        {**manners, "WANDB_MODE": "offline", "WANDB_SILENT": "true"},
        *("eval", *model(tiny_checkpoint), "--tasks", TASK, "--limit", "3"),
        *("--output_path", str(tmp_path / "out"), "--log_samples"),
        *("--wandb_args", f"project=evals,name=run-7,dir={tmp_path}", "--wandb_log_samples"),
    )
    assert done.returncode == ExitCode.OK, done.stderr
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = log.read_bytes()
    assert f"{TASK}/exact_match,none".encode() in content
    assert b"resolved" not in content, "the configuration is the flags themselves"
    assert b"max_batch_size" in content
    (table,) = (tmp_path / "wandb").rglob(f"{TASK}*.table.json")
    assert len(json.loads(table.read_text())["data"]) == 3

"""19. Config: every CLI default, YAML conversion, ``${A:-b}``, explicit override, unknown keys, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.cli.config_file import expand, exported, read_runs
from lmms_eval_grpc.cli.eval_settings import EvalSettings, make_settings, resolve_values
from lmms_eval_grpc.cli.exit_codes import ExitCode
from lmms_eval_grpc.cli.flags_eval import DEFAULTS
from lmms_eval_grpc.cli.parser import TLS_FLAGS, build_parser, name_command
from lmms_eval_grpc.cli.usage import UsageError

TASK = "handwritten_digits"
LMMS_EVAL_DEFAULTS = {
    **{"config": "", "model": "hf", "tasks": None, "model_args": "", "launcher_args": None, "num_fewshot": None},
    **{"batch_size": "1", "max_batch_size": None, "device": None, "output_path": None, "limit": None, "offset": 0},
    **{"use_cache": None, "cache_requests": None, "check_integrity": False, "write_out": False, "log_samples": False},
    **{"wandb_log_samples": False, "swanlab_log_samples": False, "log_samples_suffix": "model_outputs"},
    **{"system_instruction": None, "apply_chat_template": False, "fewshot_as_multiturn": False, "show_config": False},
    **{"include_path": None, "gen_kwargs": "", "verbosity": "INFO", "wandb_args": "", "swanlab_args": ""},
    "reasoning_tags": '[["<think>","</think>"],["<analysis>","</analysis>"]]',
    **{"timezone": "Asia/Singapore", "hf_hub_log_args": "", "predict_only": False, "seed": "0,1234,1234,1234"},
    **{"trust_remote_code": False, "process_with_media": False, "agentic_trace_mode": "basic", "force_simple": False},
    **{"tui": False, "repeats": 1, "baseline": None, "max_tokens": None, "power_analysis": False},
    **{"effect_size": 0.03, "alpha": 0.05, "power": 0.8, "correlation": 0.5, "std_a": None, "std_b": None},
}
DELIBERATE = {"timezone": "UTC", "num_gpus": 1, "max_error_share": 0.05, "merge": "never"}
"""Listed in docs/compatibility.md. All but the first are flags of our own."""


def flags(*words: str) -> dict[str, Any]:
    """What the command line gives, as ``eval`` sees it."""
    args = build_parser(["eval"]).parse_args(["eval", *words])
    return {name: value for name in DEFAULTS if (value := getattr(args, name)) is not None}


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Enough of one for what is checked before a model is loaded."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def settings(folder: Path, checkpoint: Path, text: str, *words: str) -> EvalSettings:
    """The settings of a file with these lines and of a command line with these words."""
    head = f"model: idefics3\ntasks: {TASK}\nmodel_args: pretrained={checkpoint}\n"
    (one,) = read_runs(write(folder, head + text))
    return make_settings(resolve_values(one.values, flags(*words)))


def test_every_default_is_lmms_evals() -> None:
    assert DEFAULTS == {**LMMS_EVAL_DEFAULTS, **DELIBERATE}


def test_every_name_is_a_flag_and_no_flag_has_a_hidden_default() -> None:
    assert flags() == {}, "a default set by the parser could not be told from a flag that was given"
    parser = build_parser(["eval"])
    taken = vars(parser.parse_args(["eval"]))
    of_all_commands = {"command", "address", "json", "plain", "token_file", "plaintext_token", *TLS_FLAGS}
    assert set(DEFAULTS) == set(taken) - of_all_commands, "a flag that nobody reads"


def test_how_many_failures_are_borne_is_a_flag_and_a_key(tmp_path: Path, checkpoint: Path) -> None:
    assert settings(tmp_path, checkpoint, "max_error_share: 0.2\n").config.max_error_share == 0.2
    given = settings(tmp_path, checkpoint, "max_error_share: 0.2\n", "--max_error_share", "1")
    assert given.config.max_error_share == 1.0


def test_without_a_command_flags_mean_eval() -> None:
    assert name_command(["--model", "hf"]) == ["eval", "--model", "hf"]
    assert name_command(["-x"]) == ["eval", "-x"]
    assert name_command(["--json", "-a", "host:1", "--tasks", "mme"]) == [
        "--json",
        "-a",
        "host:1",
        "eval",
        "--tasks",
        "mme",
    ]
    for words in (["--help"], ["-h"], ["--version"], ["--json", "jobs"], ["tasks", "--json"], [], ["--plain"]):
        assert name_command(words) == words


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ('"42,42,42,42"', (42, 42, 42, 42)),
        ("7", (7, 7, 7, 7)),
        ('"1,2,3"', (1, 2, 3, 1234)),
        ("[1, 2, 3, 4]", (1, 2, 3, 4)),
        ('"None,1,None,2"', (None, 1, None, 2)),
    ],
)
def test_seeds_of_a_file(tmp_path: Path, checkpoint: Path, text: str, seeds: tuple[int | None, ...]) -> None:
    assert settings(tmp_path, checkpoint, f"seed: {text}\n").config.seed == seeds


def test_values_of_a_file_become_what_flags_would_have_made_of_them(tmp_path: Path, checkpoint: Path) -> None:
    text = f"""
batch_size: 8
limit: 5
num_fewshot: "2"
gen_kwargs: {{temperature: 0.5, until: ["a", "b"]}}
include_path: [{tmp_path}, {checkpoint}]
log_samples: true
output_path: {tmp_path / "out"}
cache_requests: true
reasoning_tags: [["<a>", "</a>"]]
verbosity: debug
effect_size: 1e-2
max_tokens: null
system_instruction: "2"
wandb_args: project=evals
"""
    made = settings(tmp_path, checkpoint, text)
    config = made.config
    assert (config.batch_size, config.limit, config.num_fewshot) == (8, 5, 2)
    assert config.gen_kwargs == {"temperature": 0.5, "until": ["a", "b"]}
    assert config.model_args == {"pretrained": str(checkpoint)}
    assert config.include_paths == (tmp_path, checkpoint)
    assert (config.log_samples, config.output_dir) == (True, tmp_path / "out")
    assert config.reasoning_tags == '[["<a>", "</a>"]]'
    assert (config.max_tokens, config.system_instruction) == (None, "2")
    assert made.wandb_args == {"project": "evals"}
    assert (made.values["verbosity"], made.values["effect_size"]) == ("DEBUG", 0.01)
    assert made.values["cache_requests"] == "true"


@pytest.mark.parametrize(
    ("text", "tasks"), [(f"{TASK}, mme", (TASK, "mme")), (f"[{TASK}, 'mm*']", (TASK, "mm*")), (f"[{TASK}]", (TASK,))]
)
def test_tasks_of_a_file_are_text_or_a_list(
    tmp_path: Path, checkpoint: Path, text: str, tasks: tuple[str, ...]
) -> None:
    path = write(tmp_path, f"model: idefics3\nmodel_args: {{pretrained: {checkpoint}}}\ntasks: {text}\n")
    (one,) = read_runs(path)
    assert make_settings(resolve_values(one.values)).config.tasks == tasks


@pytest.mark.parametrize(
    ("limit", "engine"), [("-1", None), ("0.5", 0.5), ("1.0", 1), ("2.7", 2), ("100", 100)]
)  # fmt: skip
def test_limits(tmp_path: Path, checkpoint: Path, limit: str, engine: float | None) -> None:
    assert settings(tmp_path, checkpoint, f"limit: {limit}\n").config.limit == engine
    assert settings(tmp_path, checkpoint, "limit: 3\n", "--limit", limit).config.limit == engine


def test_a_flag_wins_over_the_file_also_with_its_default_value(tmp_path: Path, checkpoint: Path) -> None:
    text = 'seed: "1,2,3,4"\nbatch_size: 16\nlog_samples: true\noutput_path: out\nrepeats: 4\noffset: 9\nlimit: 7\n'
    kept = settings(tmp_path, checkpoint, text).config
    assert (kept.seed, kept.batch_size, kept.repeats, kept.offset, kept.log_samples) == ((1, 2, 3, 4), 16, 4, 9, True)
    words = ("--seed", "0,1234,1234,1234", "--batch_size", "1", "--no-log_samples", "--repeats", "1", "--offset", "0")
    config = settings(tmp_path, checkpoint, text, *words).config
    assert (config.seed, config.batch_size, config.repeats, config.offset) == ((0, 1234, 1234, 1234), 1, 1, 0)
    assert config.log_samples is False
    assert config.limit == 7, "what was not given stays the file's"


def test_unknown_keys_are_errors_with_the_nearest_key_and_all_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "- {model: hf, limmit: 3}\n- {num-fewshot: 2, seed: {a: 1}, tui: maybe}\n")
    with pytest.raises(UsageError) as caught:
        read_runs(path)
    found = dict(caught.value.problems)
    assert set(found) == {"[0].limmit", "[1].num-fewshot", "[1].seed", "[1].tui"}
    assert "did you mean 'limit'" in found["[0].limmit"]
    assert "did you mean 'num_fewshot'" in found["[1].num-fewshot"]
    for key in set(DEFAULTS) - {"config"}:
        assert f" {key}" in found["[0].limmit"]


def test_all_wrong_values_of_all_runs_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "- {limit: abc, seed: x, batch_size: foo}\n- {batch_size: 0.5, gen_kwargs: temperature}\n")
    with pytest.raises(UsageError) as caught:
        read_runs(path)
    places = {"[0].limit", "[0].seed", "[0].batch_size", "[1].batch_size", "[1].gen_kwargs"}
    assert {place for place, _ in caught.value.problems} == places


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_fewshot", "many"), ("num_fewshot", "true"), ("limit", "some"), ("log_samples", "1"), ("model", "[a]")),
        *(("agentic_trace_mode", "loud"), ("verbosity", "chatty"), ("tasks", "[]"), ("env", "[A]"), ("offset", "1.5")),
    ],
)
def test_values_that_a_flag_would_refuse_are_errors(tmp_path: Path, checkpoint: Path, key: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(tmp_path, checkpoint, f"{key}: {value}\n")
    assert key in [field for field, _ in caught.value.problems]


@pytest.mark.parametrize("text", ["", "just words", "[]", "[1, 2]", "a: [", "- model: hf\n- 7\n"])
def test_a_file_that_is_no_configuration_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"config\.yaml"):
        read_runs(write(tmp_path, text))


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "one")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("B", raising=False)
    assert expand("${A}/$A/${A:-b}") == "one/one/one"
    assert expand("${B:-b} ${EMPTY:-c} ${B:-} ${B:-$A/x}") == "b c  one/x"
    assert expand("${B} $B") == "${B} $B"
    assert expand("cost: 5$") == "cost: 5$"


def test_the_environment_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTHER", raising=False)
    monkeypatch.setenv("BASE", "/data")
    monkeypatch.setenv("KEPT", "before")
    path = write(
        tmp_path, "env: {ROOT: '${OTHER:-$BASE/hf}', SUB: $ROOT/x, KEPT: 2, MY_TOKEN: s3cret, URL: 'u:${MY_TOKEN}'}\n"
    )
    (one,) = read_runs(path)
    assert one.values == {}
    said: list[str] = []
    with exported(one.variables, said.append):
        assert (os.environ["ROOT"], os.environ["SUB"]) == ("/data/hf", "/data/hf/x")
        assert (os.environ["MY_TOKEN"], os.environ["URL"], os.environ["KEPT"]) == ("s3cret", "u:s3cret", "2")
    assert os.environ["KEPT"] == "before"
    assert "ROOT" not in os.environ
    (line,) = said
    assert "ROOT=/data/hf" in line
    assert "MY_TOKEN=***" in line
    assert "s3cret" not in line


def test_what_belongs_together() -> None:
    def problems(*words: str) -> dict[str, str]:
        with pytest.raises(UsageError) as caught:
            make_settings(resolve_values(flags("--tasks", TASK, *words)))
        return dict(caught.value.problems)

    assert "--apply_chat_template" in problems("--fewshot_as_multiturn", "--num_fewshot", "2")["fewshot_as_multiturn"]
    assert "--num_fewshot" in problems("--fewshot_as_multiturn", "--apply_chat_template")["fewshot_as_multiturn"]
    assert "--output_path" in problems("--log_samples")["log_samples"]
    assert "--output_path" in problems("--predict_only")["predict_only"]
    assert "limit" in problems("--limit", "-2")
    assert "limit" in problems("--limit", "0")
    assert "offset" in problems("--offset", "-1")


def test_predictions_alone_are_samples_too(tmp_path: Path, checkpoint: Path) -> None:
    config = settings(tmp_path, checkpoint, "", "-x", "--output_path", str(tmp_path / "out")).config
    assert config.predict_only
    assert config.log_samples


def evaluate(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LMMS_EVAL_GRPC_LMMS_EVAL": "none", **variables}
    command = [sys.executable, "-m", "lmms_eval_grpc", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)


def test_several_runs_one_of_which_fails(tmp_path: Path, checkpoint: Path, tiny_checkpoint: Path) -> None:
    """The others run all the same, as in lmms-eval; the exit code says that one failed, as it does not there."""
    path = write(
        tmp_path,
        f"""
- env: {{WHERE: "${{NOWHERE:-{tmp_path}}}", SOME_API_KEY: hidden}}
  model: idefics3
  model_args: {{pretrained: {checkpoint}}}
  tasks: {TASK}
- model: idefics3
  model_args: {{pretrained: {tiny_checkpoint}}}
  tasks: [{TASK}]
  limit: 9
  seed: "42,42,42,42"
  output_path: {tmp_path / "out"}
""",
    )
    done = evaluate("--config", str(path), "--limit", "2")
    assert done.returncode == ExitCode.JOB_FAILED, done.stderr
    assert "failed (MODEL_LOAD_FAILED)" in done.stderr
    assert "Traceback" not in done.stderr, "that is for --verbosity DEBUG"
    assert f"environment: WHERE={tmp_path}, SOME_API_KEY=***" in done.stderr
    assert "hidden" not in done.stderr + done.stdout
    (results,) = (tmp_path / "out").rglob("*_results.json")
    document = json.loads(results.read_text())
    assert document["n-samples"][TASK]["effective"] == 2
    assert document["config"]["random_seed"] == 42
    asked = document["config"]["resolved_cli_args"]
    assert set(asked) == set(DEFAULTS)
    assert (asked["limit"], asked["seed"], asked["tasks"]) == (2, "42,42,42,42", [TASK])
    assert f"{results}" in done.stdout


def test_a_run_may_be_compared_with_one_before_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    common = f"model: idefics3, model_args: 'pretrained={tiny_checkpoint}', tasks: {TASK}, limit: 3"
    first = tmp_path / "first"
    path = write(
        tmp_path,
        f"""
- {{{common}, output_path: {first}, log_samples: true}}
- {{{common}, output_path: {tmp_path / "second"}, baseline: {first}}}
""",
    )
    done = evaluate("--config", str(path))
    assert done.returncode == ExitCode.OK, done.stderr
    (results,) = (tmp_path / "second").rglob("*_results.json")
    document = json.loads(results.read_text())
    assert str(first) in json.dumps(document)
    assert document["config"]["resolved_cli_args"]["baseline"] == str(first)
    (compared,) = {one["documents"] for one in document["baseline_comparisons"][TASK].values()}
    assert compared == 3
    unkept = tmp_path / "unkept"  # without samples
    path = write(tmp_path, f"\n- {{{common}, output_path: {unkept}}}\n- {{{common}, baseline: {unkept}}}\n")
    done = evaluate("--config", str(path))
    assert done.returncode == ExitCode.USAGE
    assert "[1].baseline: there is no file or folder" in done.stderr


def test_nothing_runs_where_one_run_is_wrong(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = write(
        tmp_path,
        f"""
- {{model: idefics3, model_args: 'pretrained={tiny_checkpoint}', tasks: {TASK}, output_path: {tmp_path / "out"}}}
- {{model: idefics3, model_args: 'pretrained={tiny_checkpoint}', tasks: nonsense}}
""",
    )
    done = evaluate("eval", "--config", str(path))
    assert done.returncode == ExitCode.USAGE
    assert "[1].tasks[0]: unknown task 'nonsense'" in done.stderr
    assert not (tmp_path / "out").exists()
    assert evaluate("--config", str(tmp_path / "none.yaml")).returncode == ExitCode.USAGE

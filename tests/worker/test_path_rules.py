"""A worker looks again at the paths of its job."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.executors.ray.actor import _LocalFolder
from lmms_eval_grpc.jobs.results import JobErrorCode
from lmms_eval_grpc.jobs.spec import EvaluationSpec, JobSpec, MergeSpec
from lmms_eval_grpc.worker.ahead import check_paths, read_config
from lmms_eval_grpc.worker.merging import merge
from lmms_eval_grpc.worker.path_rules import PathRules
from lmms_eval_grpc.worker.reporter import JobReporter
from lmms_eval_grpc.worker.translate import to_error
from lmms_eval_grpc.worker.v1.worker_pb2 import RunJob


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunJob:
    for name in ("in/good", "out", "private", "jobs/j"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "in/ckpt").symlink_to(tmp_path / "private")
    (tmp_path / "out/link").symlink_to(tmp_path / "private")
    for name, value in PathRules((str(tmp_path / "in"),), (str(tmp_path / "out"),)).environment().items():
        monkeypatch.setenv(name, value)
    return RunJob(job_id="j", job_dir=str(tmp_path / "jobs/j"), device="cpu", attempt=1)


def specs(folder: Path) -> list[tuple[str, JobSpec]]:
    good = str(folder / "in/good")
    return [
        ("pretrained", EvaluationSpec("idefics3", ("t",), {"pretrained": str(folder / "in/ckpt")})),
        ("output_dir", EvaluationSpec("idefics3", ("t",), {"pretrained": good}, output_dir=str(folder / "out/link/r"))),
        ("checkpoint_path", MergeSpec(str(folder / "in/ckpt"), str(folder / "out/m"))),
        ("output_path", MergeSpec(good, str(folder / "out/link/m"))),
    ]


def test_a_job_whose_path_leads_elsewhere_by_now_ends_before_anything_is_read(job: RunJob, tmp_path: Path) -> None:
    for field, spec in specs(tmp_path):
        with pytest.raises(EvaluationError, match=field) as caught:
            check_paths(job, spec)
        assert caught.value.reason == "PATH_NOT_ALLOWED"
        if isinstance(spec, EvaluationSpec):
            with pytest.raises(EvaluationError):
                read_config(job, spec)


def test_a_merge_looks_too_and_no_further_attempt_is_made(job: RunJob, tmp_path: Path) -> None:
    spec = MergeSpec(str(tmp_path / "in/ckpt"), str(tmp_path / "out/m"))
    with pytest.raises(EvaluationError) as caught:
        merge(spec, job, Path(job.job_dir), JobReporter(lambda event: None, lambda: False))
    assert to_error(caught.value).reason == "PATH_NOT_ALLOWED"
    assert to_error(caught.value).code is JobErrorCode.INVALID


def test_what_is_allowed_passes(job: RunJob, tmp_path: Path) -> None:
    results = tmp_path / "jobs/other/samples.jsonl"
    spec = EvaluationSpec("idefics3", ("t",), {"pretrained": str(tmp_path / "in/good")}, baseline=str(results))
    check_paths(job, spec)


def test_what_is_beside_a_jobs_folder_on_a_node_of_ray_is_no_results(
    job: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = _LocalFolder()
    job.job_dir = str(folder.path)
    good = {"pretrained": str(tmp_path / "in/good")}
    check_paths(job, EvaluationSpec("idefics3", ("t",), good, output_dir=str(tmp_path / "out/r")))
    with pytest.raises(EvaluationError, match="baseline"):
        check_paths(job, EvaluationSpec("idefics3", ("t",), good, baseline=str(tmp_path / "private")))
    before = set(tmp_path.iterdir())
    folder.remove()
    assert len(before - set(tmp_path.iterdir())) == 1


def test_without_rules_nothing_is_refused(job: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMMS_EVAL_GRPC_PATH_RULES")
    for _, spec in specs(tmp_path):
        check_paths(job, spec)


@pytest.mark.parametrize("linked", ["state", "jobs"])
def test_the_state_is_known_behind_links_too(linked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "disk/state"
    (state / "jobs/other").mkdir(parents=True)
    (state / "jobs/other/secrets.json").write_text("{}")
    (tmp_path / "run").mkdir()
    if linked == "state":
        jobs = tmp_path / "run/state/jobs"
        (tmp_path / "run/state").symlink_to(state)
    else:
        jobs = tmp_path / "run/jobs"
        jobs.symlink_to(state / "jobs")
    (tmp_path / "good").mkdir()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/chat_template.jinja").symlink_to(state / "jobs/other/secrets.json")
    job = RunJob(job_id="me", job_dir=str(jobs / "me"), device="cpu", attempt=1)

    def problem(rules: PathRules, spec: JobSpec) -> str:
        for name, value in rules.environment().items():
            monkeypatch.setenv(name, value)
        try:
            check_paths(job, spec)
        except EvaluationError as error:
            return str(error)
        return ""

    secret = {"pretrained": str(tmp_path / "good"), "chat_template": str(state / "jobs/other/secrets.json")}
    writable = PathRules((), (str(tmp_path),))
    assert "chat_template" in problem(writable, EvaluationSpec("idefics3", ("t",), secret))
    readable = PathRules((str(tmp_path),), (str(tmp_path / "out"),))
    leading = {"pretrained": str(tmp_path / "checkpoint")}
    assert "pretrained" in problem(readable, EvaluationSpec("idefics3", ("t",), leading))
    into = EvaluationSpec("idefics3", ("t",), output_dir=str(state / "jobs/other"))
    assert "output_dir" in problem(writable, into)
    # Results of an earlier job are another matter, by either name.
    narrow = PathRules((str(tmp_path / "good"),), (str(tmp_path / "out"),))
    for folder in (jobs, state / "jobs"):
        spec = EvaluationSpec("idefics3", ("t",), baseline=str(folder / "other/results.json"))
        assert problem(narrow, spec) == ""

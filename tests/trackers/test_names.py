"""Which trackers can be named, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.server.tracking import check_own_trackers, check_trackers
from lmms_eval_grpc.trackers import ScoreLogs, TrackerName, TrackerNameError, parse_tracker, score_name
from lmms_eval_grpc.trackers import names as names_module


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("tensorboard:/runs/a:b", "tensorboard", "/runs/a:b"),
        ("wandb:digits", "wandb", "digits"),
        ("wandb:team/digits", "wandb", "team/digits"),
        ("mlflow:/Shared/digits", "mlflow", "/Shared/digits"),
    ],
)
def test_a_name_is_a_kind_and_a_place(text: str, kind: str, target: str) -> None:
    assert parse_tracker(text) == TrackerName(kind, target)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("neptune:digits", "is none of tensorboard:FOLDER"),
        ("wandb", "does not say where in wandb"),
        ("mlflow: ", "does not say where in mlflow"),
        ("tensorboard:runs", "must be an absolute path"),
        ("tensorboard:~no-such-user/runs", "must be an absolute path"),
        ("wandb:a/b/c", "use wandb:PROJECT or wandb:ENTITY/PROJECT"),
        ("wandb:/digits", "use wandb:PROJECT or wandb:ENTITY/PROJECT"),
    ],
)
def test_other_text_is_refused_with_the_remedy(text: str, remedy: str) -> None:
    with pytest.raises(TrackerNameError, match=remedy):
        parse_tracker(text)


def test_what_the_server_lacks_and_cannot_write_is_told_by_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(names_module.importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    found = [*check_trackers(["wandb:p", "mlflow:e", f"tensorboard:{tmp_path}/file", "x"], "spec.track")]
    assert [violation.field for violation in found] == ["spec.track[0]", "spec.track[2]", "spec.track[3]"]
    assert "needs the package wandb" in found[0].description
    assert "is a file" in found[1].description
    with pytest.raises(ServerStartError, match=r"track\[0\]: 'x' is none of"):
        check_own_trackers(["x"])


def test_a_log_that_fails_is_left_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    class Good:
        def __init__(self) -> None:
            self.told: list[object] = []

        def log(self, step: int | None, scores: object) -> None:
            self.told.append((step, scores))

        def close(self) -> None:
            self.told.append("closed")

    class Bad(Good):
        def log(self, step: int | None, scores: object) -> None:
            raise OSError("no space")

    good, bad = Good(), Bad()
    logs = ScoreLogs([bad, good])
    logs.log(1, {"a": 0.5, "undefined": float("nan")})
    logs.log(2, {"undefined": float("nan")})
    logs.log(None, {"a": 1.0})
    logs.close()
    assert good.told == [(1, {"a": 0.5}), (None, {"a": 1.0}), "closed"]
    assert bad.told == []
    assert caplog.text.count("no space") == 1


def test_lanes_have_sections_of_their_own() -> None:
    assert score_name("full", "mme", "score") == "eval_service/mme/score"
    assert score_name("fast", "mme", "score,strict") == "eval_service_fast/mme/score,strict"

"""The commit of a model from the hub, as the hub's own client keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmms_eval_grpc.engine.models.hub_cache import UNRESOLVED, resolve_commit
from lmms_eval_grpc.engine.models.lmms_eval.backend import _identify
from tests.engine import test_models_managed as managed

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one model, org/model, of which a branch and a tag were loaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--org--model" / "refs"
    (refs / "refs" / "pr").mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    (refs / "v2").write_text(OTHER)
    (refs / "refs" / "pr" / "1").write_text(OTHER)
    (refs / "torn").write_text(COMMIT[:7])
    return tmp_path


def test_names_of_revisions_lead_to_commits(hub: Path) -> None:
    assert resolve_commit("org/model") == resolve_commit("org/model", "main") == COMMIT
    assert resolve_commit("org/model", "v2") == resolve_commit("org/model", "refs/pr/1") == OTHER
    assert resolve_commit("org/model", OTHER) == OTHER


def test_what_is_not_in_the_cache_is_said_to_be_unresolved(hub: Path) -> None:
    for model, revision in (("org/other", None), ("org/model", "v3"), ("org/model", "torn")):
        assert resolve_commit(model, revision) == UNRESOLVED


def test_folders_and_what_is_no_name_have_no_commit(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint").mkdir()
    monkeypatch.chdir(tmp_path)
    for pretrained in ("checkpoint", str(tmp_path), "./gone", "a/b/c", "https://x/y", None, 7):
        assert resolve_commit(pretrained) is None


def test_the_identities_of_models_that_others_load_name_the_commit(hub: Path, tmp_path: Path) -> None:
    assert _identify(object, {"pretrained": "org/model"})["revision"] == COMMIT
    assert _identify(object, {"pretrained": "org/model", "revision": "v2"})["revision"] == OTHER
    assert _identify(object, {"pretrained": "org/other"})["revision"] == UNRESOLVED
    backend = managed.start(tmp_path, pretrained="org/model")
    backend.close()
    assert backend.identity["revision"] == COMMIT

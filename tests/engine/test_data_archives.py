"""Videos in archives: unpacked once and whole, taken up again after a crash, where tasks look for them."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.data import archives
from lmms_eval_grpc.engine.data.archives import MARKER, archive_groups, prepare_media
from lmms_eval_grpc.engine.data.folders import datasets_cache, is_on_network, task_folder
from lmms_eval_grpc.engine.data.source import DatasetSource, open_split

VIDEOS = {f"videos/{number}.mp4": bytes([number]) * 5000 for number in range(8)}


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tar_bytes(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def unpacked(target: Path) -> dict[str, bytes]:
    return {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and path.name != MARKER
    }


def as_zip(folder: Path) -> None:
    write_zip(folder / "data" / "all.zip", VIDEOS)


def as_tar_gz(folder: Path) -> None:
    folder.mkdir()
    (folder / "all.tar.gz").write_bytes(tar_bytes(VIDEOS, "w:gz"))


def as_parts_of_one_tar(folder: Path) -> None:
    folder.mkdir()
    whole = tar_bytes(VIDEOS)
    for number, start in enumerate(range(0, len(whole), 9000)):
        (folder / f"all.tar.part{number:02d}").write_bytes(whole[start : start + 9000])


def as_numbered_tars(folder: Path) -> None:
    folder.mkdir()
    names = list(VIDEOS)
    (folder / "all_1.tar").write_bytes(tar_bytes({name: VIDEOS[name] for name in names[:5]}))
    (folder / "all_2.tar").write_bytes(tar_bytes({name: VIDEOS[name] for name in names[5:]}))


def as_zip_and_tar(folder: Path) -> None:
    names = list(VIDEOS)
    write_zip(folder / "a.zip", {name: VIDEOS[name] for name in names[:4]})
    (folder / "b.tar").write_bytes(tar_bytes({name: VIDEOS[name] for name in names[4:]}))


@pytest.mark.parametrize("pack", [as_zip, as_tar_gz, as_parts_of_one_tar, as_numbered_tars, as_zip_and_tar])
def test_every_kind_of_archive_is_unpacked(tmp_path: Path, pack: Callable[[Path], None]) -> None:
    pack(tmp_path / "repository")
    target = prepare_media("t", str(tmp_path / "repository"), tmp_path / "home" / "videos")
    assert unpacked(target) == VIDEOS
    listed = json.loads((target / MARKER).read_text())["archives"]
    assert listed == [name for name, _ in archive_groups(tmp_path / "repository")]


def test_what_is_complete_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_zip(tmp_path / "repository")
    target = prepare_media("t", str(tmp_path / "repository"), tmp_path / "videos")

    def fail(*_: Any) -> Path:
        raise AssertionError("asked again")

    monkeypatch.setattr(archives, "_snapshot", fail)
    assert prepare_media("t", str(tmp_path / "repository"), target) == target


def test_an_interrupted_unpacking_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_zip(tmp_path / "repository")
    real, written = archives._write, []

    def write_three(place: Path, content: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(place.name)
        real(place, content)

    monkeypatch.setattr(archives, "_write", write_three)
    with pytest.raises(KeyboardInterrupt):
        prepare_media("t", str(tmp_path / "repository"), tmp_path / "videos")
    assert not (tmp_path / "videos" / MARKER).exists()
    (tmp_path / "videos" / "videos" / "0.mp4").write_bytes(b"torn")  # left by something that knew no better
    (tmp_path / "videos" / "videos" / ".unpacking.k3j").write_bytes(b"torn")  # left by a process that was killed
    written.clear()
    monkeypatch.setattr(archives, "_write", lambda place, content: (written.append(place.name), real(place, content)))
    prepare_media("t", str(tmp_path / "repository"), tmp_path / "videos")
    assert unpacked(tmp_path / "videos") == VIDEOS
    assert sorted(written) == sorted([MARKER, "0.mp4", "3.mp4", "4.mp4", "5.mp4", "6.mp4", "7.mp4"])


def test_several_at_once_unpack_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_zip(tmp_path / "repository")
    real, written = archives._write, []
    monkeypatch.setattr(archives, "_write", lambda place, content: (written.append(place.name), real(place, content)))
    threads = [
        threading.Thread(target=prepare_media, args=("t", str(tmp_path / "repository"), tmp_path / "videos"))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == len(VIDEOS) + 1


def test_members_that_lead_out_of_the_folder_are_left_out(tmp_path: Path) -> None:
    write_zip(tmp_path / "repository" / "a.zip", {"../evil": b"x", "/evil": b"x", "good": b"y"})
    (tmp_path / "repository" / "b.tar").write_bytes(tar_bytes({"../../evil": b"x", "fine": b"z"}))
    target = prepare_media("t", str(tmp_path / "repository"), tmp_path / "inside" / "videos")
    assert unpacked(target) == {"good": b"y", "fine": b"z"}
    assert not list(tmp_path.rglob("evil"))


def test_without_archives_a_link_is_made_on_request(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "a.mp4").write_bytes(b"a")
    target = tmp_path / "videos"
    prepare_media("t", str(tmp_path / "repository"), target)
    assert not target.exists()
    for _ in range(2):
        prepare_media("t", str(tmp_path / "repository"), target, create_link=True)
        assert target.is_symlink()
        assert (target / "a.mp4").read_bytes() == b"a"


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "a.zip").write_bytes(b"not a zip file")
    with pytest.raises(EvaluationError, match=r"archive a\.zip could not be unpacked") as raised:
        prepare_media("t", str(tmp_path / "repository"), tmp_path / "videos")
    assert raised.value.reason == "DATASET_UNAVAILABLE"


def test_without_network_what_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EvaluationError, match="unpack them into") as raised:
        prepare_media("t", "someone/videos", tmp_path / "videos", local_files_only=True)
    assert raised.value.reason == "DATASET_UNAVAILABLE"
    (tmp_path / "videos" / "a.mp4").parent.mkdir(exist_ok=True)
    (tmp_path / "videos" / "a.mp4").write_bytes(b"by hand")
    assert prepare_media("t", "someone/videos", tmp_path / "videos", local_files_only=True) == tmp_path / "videos"


def test_a_task_with_videos_has_them_below_the_hugging_face_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    as_zip(tmp_path / "repository")
    (tmp_path / "repository" / "test.jsonl").write_text('{"video": "0.mp4"}\n')
    kwargs = {"video": True, "cache_dir": "toy", "token": None}
    dataset = open_split(DatasetSource("t", str(tmp_path / "repository"), kwargs=kwargs), "test")
    assert dataset[0] == {"video": "0.mp4"}
    assert unpacked(tmp_path / "home" / "toy") == VIDEOS
    with pytest.raises(EvaluationError, match="needs cache_dir"):
        open_split(DatasetSource("t", str(tmp_path / "repository"), kwargs={"video": True}), "test")


def test_folders_of_tasks_may_use_variables_and_be_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLACE", str(tmp_path / "place"))
    assert task_folder("toy") == tmp_path / "home" / "toy"
    assert task_folder("$PLACE/toy") == tmp_path / "place" / "toy"


def test_the_datasets_cache_is_the_chosen_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", "$PLACE/cache")
    assert datasets_cache() == tmp_path / "cache"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("nfs4", True), ("fuse.s3fs", True), ("lustre", True), ("ext4", False), ("fuse.other", False)],
)
def test_network_file_systems_are_told_by_the_nearest_mount(tmp_path: Path, kind: str, expected: bool) -> None:
    mounts = f"/dev/root / ext4 rw 0 0\nserver:/x {tmp_path.resolve()} {kind} rw 0 0\n"
    assert is_on_network(tmp_path / "a" / "b", mounts) is expected
    assert not is_on_network(tmp_path.parent, mounts)

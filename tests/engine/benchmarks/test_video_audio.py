"""videomme, mvbench and librispeech: paths of videos, decoded audio, and their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.tasks.task import DocumentError
from tests.engine.benchmarks.made import SHIPPED, document, load_benchmark, points, question, silence, totals
from tests.support.task_files import datasets_cache

__all__ = ["datasets_cache"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hugging Face home, where tasks look for their videos."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def media(task: Any, doc_id: int = 0) -> list[dict[str, Any]]:
    return [item for item in task.build_request(doc_id).messages[0]["content"] if item["type"] != "text"]


def clip(number: int, answer: str = "B", video: str = "abc") -> dict[str, Any]:
    return document(
        "videomme",
        video_id="001",
        duration="short",
        domain="Knowledge",
        sub_category="Astronomy",
        videoID=video,
        question_id=f"001-{number}",
        task_type="OCR Problems",
        question="What is counted?",
        options=["A. Stars.", "B. Moons.", "C. Rings.", "D. Spots."],
        answer=answer,
    )


def test_videomme_gives_the_path_of_the_video_and_lists_the_options(tmp_path: Path, home: Path) -> None:
    path = touch(home / "videomme" / "data" / "abc.mp4")
    task = load_benchmark(tmp_path, "videomme", [clip(1)])
    assert media(task) == [{"type": "video", "url": str(path)}]
    assert question(task) == (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\nWhat is counted?\n"
        "A. Stars.\nB. Moons.\nC. Rings.\nD. Spots.\n\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_a_video_that_is_missing_fails_its_document_only(tmp_path: Path, home: Path) -> None:
    path = touch(home / "videomme" / "data" / "abc.mkv")
    task = load_benchmark(tmp_path, "videomme", [clip(1), clip(2, video="lost")])
    assert media(task)[0]["url"] == str(path)
    with pytest.raises(DocumentError, match=r"lost\.mp4 does not exist"):
        task.build_request(1)


def test_videomme_is_accuracy_in_per_cent_with_questions_of_a_video_together(tmp_path: Path, home: Path) -> None:
    touch(home / "videomme" / "data" / "abc.mp4")
    task = load_benchmark(tmp_path, "videomme", [clip(number) for number in range(4)])
    given = ["B", "The best answer is: B", "A", ""]
    assert points(task, given, "videomme_perception_score") == [1, 1, 0, 0]
    assert totals(task, given) == {"videomme_perception_score": pytest.approx(50.0)}
    assert task.config.cluster_key == "videoID"


def moves(answer: str = "left", video: str = "1.mp4") -> dict[str, Any]:
    return document(
        "mvbench", video=video, question="Where to?", candidates=["up", "left", "a way down"], answer=answer
    )


@pytest.mark.parametrize("deeper", ["", "data0613"])
def test_mvbench_finds_its_videos_by_task(tmp_path: Path, home: Path, deeper: str) -> None:
    path = touch(home / "mvbench_video" / deeper / "clevrer" / "video_validation" / "1.mp4")
    task = load_benchmark(tmp_path, "mvbench_moving_direction", [moves()], family="mvbench")
    assert media(task) == [{"type": "video", "url": str(path)}]
    assert question(task) == (
        "Question:Where to?\nOption:\n(A) up\n(B) left\n(C) a way down\nOnly give the best option.\n"
    )


def test_mvbench_reads_letters_and_leaves_out_empty_answers(tmp_path: Path, home: Path) -> None:
    touch(home / "mvbench_video" / "perception" / "videos" / "1.mp4")
    given = ["B", "(B) left", "b. left", "Answer: B.", "(A) up", "left", ""]
    task = load_benchmark(tmp_path, "mvbench_action_count", [moves() for _ in given], family="mvbench")
    assert points(task, given, "mvbench_accuracy") == [1, 1, 1, 1, 0, 0, 0]
    assert totals(task, given) == {"mvbench_accuracy": pytest.approx(100 * 4 / 6)}


def test_mvbench_has_twenty_tasks_each_with_its_own_videos() -> None:
    from lmms_eval_grpc.benchmarks.mvbench.utils import FOLDERS
    from lmms_eval_grpc.engine.tasks.index import TaskIndex

    index = TaskIndex.scan()
    names = index.expand("mvbench")
    assert len(names) == 20
    assert {name.removeprefix("mvbench_") for name in names} == FOLDERS.keys()
    assert all((SHIPPED / "mvbench" / f"{name}.yaml").is_file() for name in names)


def spoken(text: str) -> dict[str, Any]:
    return document("librispeech", index=1, audio=silence(), source="librispeech_test_clean", gt=text, task="asr_en")


def test_librispeech_gives_the_audio_and_asks_for_its_words(tmp_path: Path) -> None:
    task = load_benchmark(tmp_path, "librispeech_test_clean", [spoken("HELLO")], family="librispeech")
    (audio,) = media(task)
    assert audio["type"] == "audio"
    assert (len(audio["url"]["array"]), audio["url"]["sampling_rate"]) == (1600, 16000)
    assert question(task) == "Please recognize the speech and only output the recognized content:"


@pytest.mark.parametrize(
    ("text", "heard", "errors", "words"),
    [
        ("HE LIKES THE COLOUR GREY", "He likes the color gray.", 0, 5),
        ("MISTER SMITH WON'T GO", "Mr. Smith will not go!", 0, 5),
        ("TWENTY ONE DOGS", "21 dogs", 0, 2),
        ("A CAT SAT", "a cat", 1, 3),
        ("A CAT", "a black cat sat", 2, 2),
        ("A CAT", "", 2, 2),
        ("A CAT", "<|en|> a cat", 0, 2),
        ("UM A CAT", "a cat", 0, 2),
        ("THE TRAVELLER ORGANISED IT", "the traveler organized it", 0, 4),
    ],
)
def test_words_are_compared_after_whispers_normalisation(
    tmp_path: Path, text: str, heard: str, errors: int, words: int
) -> None:
    from lmms_eval_grpc.benchmarks.librispeech.utils import process_results

    score = process_results({"gt": text, "source": "s", "task": "asr_en"}, [heard])["wer"]
    assert (score["errors"], score["words"]) == (errors, words)


def test_the_error_rate_is_over_all_words(tmp_path: Path) -> None:
    documents = [spoken("ONE TWO THREE FOUR"), spoken("A CAT SAT ON THE MAT")]
    task = load_benchmark(tmp_path, "librispeech_test_clean", documents, family="librispeech")
    # Numbers spoken in a row are one word, 1234.
    assert totals(task, ["1234", "a cat sat on a hat"]) == {"wer": pytest.approx(100 * 2 / 7)}
    assert task.higher_is_better == {"wer": False}

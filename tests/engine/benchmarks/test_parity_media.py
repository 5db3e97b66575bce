"""Video and audio benchmarks against lmms-eval's own functions."""

from __future__ import annotations

import random

import pytest

from lmms_eval_grpc.benchmarks._shared import groups
from lmms_eval_grpc.benchmarks.librispeech import utils as librispeech
from lmms_eval_grpc.benchmarks.mvbench import utils as mvbench
from lmms_eval_grpc.benchmarks.videomme import utils as videomme
from tests.engine.benchmarks.random_answers import random_answers
from tests.engine.benchmarks.reference import COUNT, OPTIONS, Reference, kwargs_of, reference
from tests.support.lmms_eval_files import require_lmms_eval

__all__ = ["reference"]

require_lmms_eval()


def test_videomme(reference: Reference) -> None:
    theirs, generator = reference("videomme.utils"), random.Random(34)
    mine, other = [], []
    for answer in random_answers(35, COUNT, OPTIONS):
        one = {
            "question": "What?",
            "options": ["A. red", "B. blue", "C. one", "D. two"],
            "answer": generator.choice("ABCD"),
            "question_id": "1-1",
            "videoID": "x",
            "duration": generator.choice(theirs.VIDEO_TYPE),
            "domain": generator.choice(theirs.CATEGORIES),
            "sub_category": generator.choice(theirs.SUB_CATEGORIES),
            "task_type": generator.choice(theirs.TASK_CATEGORIES),
        }
        mine.append(videomme.process_results(one, [answer])["videomme_perception_score"])
        other.append(theirs.videomme_process_results(one, [answer])["videomme_perception_score"])
    assert mine == other
    assert groups.percentage(mine) == pytest.approx(theirs.videomme_aggregate_results(other), abs=1e-9)
    for kwargs in kwargs_of("videomme"):
        assert videomme.doc_to_text(one, kwargs) == theirs.videomme_doc_to_text(one, kwargs)


def test_mvbench(reference: Reference) -> None:
    theirs, generator = reference("mvbench.utils"), random.Random(36)
    assert theirs.DATA_LIST == mvbench.FOLDERS
    mine, other = [], []
    for answer in random_answers(37, 2 * COUNT, [*OPTIONS, "(A) red", "B. blue", "1,,2 C"]):
        candidates = generator.sample(["red", "blue", "one", "two", "three"], generator.choice([2, 3, 4, 5]))
        one = {"question": "What?", "candidates": candidates, "answer": generator.choice(candidates)}
        mine.append(mvbench.process_results(one, [answer])["mvbench_accuracy"])
        other.append(theirs.mvbench_process_results(one, [answer])["mvbench_accuracy"])
        assert mine[-1] == other[-1], answer
    assert mvbench.percentage_of_answered(mine) == pytest.approx(theirs.mvbench_aggregate_results(other), abs=1e-9)
    for kwargs in kwargs_of("mvbench_action_count"):
        assert mvbench.doc_to_text(one, kwargs) == theirs.mvbench_doc_to_text(one, kwargs)


_SPOKEN = """
    the colour of the grey theatre mr smith's twenty one pounds fifty o'clock he'd been gonna can't organised
    one hundred and five double oh seven uh um (laughs) [noise] <|en|> naïve café don't , . ! ? 1,000 $20 50 % half
    archeology archaeology two thousand nineteen first 3rd it's we'll travelled centre aeroplane mmm minus five point
"""


def test_librispeech(reference: Reference) -> None:
    theirs, generator = reference("librispeech.utils"), random.Random(38)
    words, items = _SPOKEN.split(), []
    for _ in range(600):
        spoken = generator.choices(words, k=generator.randrange(3, 15))
        heard = [generator.choice(words) if generator.random() < 0.2 else word for word in spoken]
        document = {"gt": " ".join(["begin", *spoken]).upper(), "source": "s", "task": "asr_en"}
        items.append(librispeech.process_results(document, [" ".join(heard)])["wer"])
        other = theirs.librispeech_wer([items[-1]], None)
        assert librispeech.word_error_rate([items[-1]]) == pytest.approx(other, abs=1e-9), items[-1]
    assert librispeech.word_error_rate(items) == pytest.approx(theirs.librispeech_wer(items, None), abs=1e-9)
    kwargs = {"pre_prompt": "<", "post_prompt": ">"}
    assert librispeech.doc_to_text({}, kwargs) == theirs.librispeech_doc_to_text({}, kwargs)

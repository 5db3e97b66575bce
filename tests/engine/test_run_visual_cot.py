"""``generate_visual_cot``: a model that draws on the way to its answer, as a plug-in brings it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError, EvaluationOutcome
from lmms_eval_grpc.engine.models.protocol import Answer, Capabilities, GenerationRequest, GenerationResponse
from lmms_eval_grpc.engine.run.evaluate import evaluate
from lmms_eval_grpc.engine.tasks.load import load_tasks
from tests.support.backends import ScriptedBackend, prompt
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, image, write_task

__all__ = ["datasets_cache"]

GREYS = (10, 100, 200)

KEYS = """
output_type: generate_visual_cot
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
generation_kwargs: {visual_cot: true, max_new_tokens: 64, temperature: 0, drawing: {steps: 50, ratio: "1:1"}}
"""

SCORED_BY_FUNCTION = """
process_results: !function utils.score
metric_list:
  - {metric: answer, aggregation: mean, higher_is_better: true}
  - {metric: drawing, aggregation: mean, higher_is_better: true}
"""

UTILS = """
import json
from PIL import Image

def visual(doc): return [doc["image"]]

def text(doc, lmms_eval_specific_kwargs=None):
    return "[GEN_PROMPT]the negative[/GEN_PROMPT][QUESTION]How bright is it?[/QUESTION]"

def score(doc, results):
    said = json.loads(results[0])
    drawn = Image.open(said["images"][0])
    return {"answer": said["text"] == doc["answer"], "drawing": drawn.getpixel((0, 0)) == int(doc["answer"])}
"""


class Illustrator:
    """Draws the negative of the picture that it is shown, and answers with what it sees in its own drawing."""

    def __init__(self, folder: Path, names_drawings: bool) -> None:
        self.folder = folder
        self.names_drawings = names_drawings
        self.requests: list[GenerationRequest] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(modalities=frozenset({"text", "image"}), visual_cot=True)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"backend": "illustrator"}

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        for index in range(len(requests)):
            request = requests[index]
            self.requests.append(request)
            yield [Answer(index, GenerationResponse(self._answer(request), input_tokens=1, output_tokens=1))]

    def loglikelihood(self, requests: Sequence[Any]) -> Iterator[list[Answer]]:
        raise NotImplementedError

    def close(self) -> None: ...

    def _answer(self, request: GenerationRequest) -> str:
        (seen,) = [item["url"] for item in request.messages[-1]["content"] if item["type"] == "image"]
        path = self.folder / f"drawing-{len(self.requests)}.png"
        seen.convert("L").point(lambda value: 255 - value).save(path)
        with Image.open(path) as drawing:
            text = str(drawing.getpixel((0, 0)))
        return json.dumps({"text": text, "images": [str(path)]}) if self.names_drawings else f"  {text}\n"


def write(folder: Path, keys: str) -> None:
    documents = [{"image": image(grey), "answer": str(255 - grey)} for grey in GREYS]
    features = datasets.Features({"image": datasets.Image(), "answer": datasets.Value("string")})
    write_task(folder, KEYS + keys, documents=documents, features=features, utils=UTILS)


def run(folder: Path, backend: Any, **settings: Any) -> EvaluationOutcome:
    config = EvaluationConfig("illustrator", ("toy",), include_paths=(folder,), **settings)
    return evaluate(config, folder / "run", Recorder(), tasks=load_tasks(config), backend=backend)


def values(outcome: EvaluationOutcome) -> dict[str, float]:
    return {metric.name: metric.value for metric in outcome.tasks[0].metrics}


def test_the_model_gets_the_task_s_settings_and_its_drawings_can_be_scored(tmp_path: Path) -> None:
    write(tmp_path, SCORED_BY_FUNCTION)
    backend = Illustrator(tmp_path, names_drawings=True)
    outcome = run(tmp_path, backend, gen_kwargs={"max_new_tokens": 8})

    assert values(outcome) == {"answer": 1.0, "drawing": 1.0}
    request = backend.requests[0]
    assert dict(request.generation) == {
        "visual_cot": True,
        "max_new_tokens": 8,
        "temperature": 0.0,
        "drawing": {"steps": 50, "ratio": "1:1"},
        "until": ["\n\n"],
    }
    assert [item["type"] for item in request.messages[0]["content"]] == ["image", "text"]
    assert prompt(request) == "[GEN_PROMPT]the negative[/GEN_PROMPT][QUESTION]How bright is it?[/QUESTION]"

    again = Illustrator(tmp_path, names_drawings=True)
    assert values(run(tmp_path, again, gen_kwargs={"max_new_tokens": 8})) == values(outcome)
    assert again.requests == [], "answers that name drawings are taken from the run log like others"


def test_answers_are_stripped_before_they_are_scored(tmp_path: Path) -> None:
    write(tmp_path, "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n")
    assert values(run(tmp_path, Illustrator(tmp_path, names_drawings=False))) == {"exact_match": 1.0}


def test_a_model_that_cannot_draw_is_refused(tmp_path: Path) -> None:
    write(tmp_path, SCORED_BY_FUNCTION)
    with pytest.raises(EvaluationError, match="needs a model that draws") as raised:
        run(tmp_path, ScriptedBackend(lambda text: text))
    assert raised.value.reason == "UNSUPPORTED_TASK"


def test_it_has_no_metric_by_default(tmp_path: Path) -> None:
    write(tmp_path, "")
    with pytest.raises(EvaluationError, match="generate_visual_cot needs a metric_list") as raised:
        run(tmp_path, Illustrator(tmp_path, names_drawings=False))
    assert raised.value.reason == "TASK_LOAD_FAILED"

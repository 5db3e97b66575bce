"""lmms-eval's side of scripts/score_parity; runs in the environment that has lmms-eval, never by hand.

    python scripts/score_parity_reference.py DATA OUTPUT evaluate MODEL MODEL_ARGS TASK…
    python scripts/score_parity_reference.py DATA OUTPUT train CHECKPOINT ANSWERS
    python scripts/score_parity_reference.py DATA OUTPUT borrow MODEL MODEL_ARGS TASK…    (MODEL_ARGS as JSON)

``evaluate`` runs lmms-eval itself (``simple_evaluate``, nothing of it changed) over the made data sets below DATA and
writes what it did and computed to OUTPUT. MODEL is ``parity_reader``, which is registered as any plug-in would be, or
one of its own. ``train`` makes a tiny model that gives the answers (a JSON file, by task and document) to what
lmms-eval shows to a model ``qwen2_5_vl``. ``borrow`` runs this engine, with a backend of lmms-eval.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    data, output, action, *arguments = sys.argv[1:]
    if action == "borrow":
        model, model_args, *tasks = arguments
        outcome = borrow(Path(data), Path(output).parent / "ours", model, json.loads(model_args), tasks)
        Path(output).write_text(json.dumps(outcome))
        return
    import datasets

    from tests.support.parity.store import loader

    datasets.load_dataset = loader(Path(data), plain_sound=True)
    os.chdir(Path(output).parent)  # some tasks write files where they run
    if action == "train":
        checkpoint, answers = map(Path, arguments)
        outcome = train_on(json.loads(answers.read_text()), checkpoint)
    else:
        model, model_args, *tasks = arguments
        outcome = recorded(*evaluate(model, model_args, tasks))
    Path(output).write_text(json.dumps(outcome))


def borrow(data: Path, run_dir: Path, model: str, model_args: dict[str, Any], tasks: list[str]) -> Any:
    """This engine's results. Here it sees lmms-eval's package; its tasks get this engine's modules all the same."""
    from lmms_eval_grpc.engine.packages import lmms_eval_folder
    from tests.support.parity.ours import run

    folder = lmms_eval_folder()
    assert folder is not None
    return run(data, run_dir, tasks, backend=None, definitions=folder / "tasks", model=model, model_args=model_args)


def train_on(answers: dict[str, dict[str, str]], checkpoint: Path) -> dict[str, Any]:
    from lmms_eval.tasks import TaskManager, get_task_dict
    from score_parity_model import train

    tasks = get_task_dict(list(answers), TaskManager("ERROR", model_name="qwen2_5_vl"), "chat")
    examples = [
        (tasks[name].doc_to_messages(tasks[name].test_docs()[int(doc_id)]), answer)
        for name, of_task in answers.items()
        for doc_id, answer in of_task.items()
    ]
    return train(examples, checkpoint)


def evaluate(model: str, model_args: str, tasks: list[str]) -> tuple[dict[str, Any], dict[Any, dict[str, Any]]]:
    """lmms-eval's results, and by task and document what the model was shown and said."""
    from lmms_eval import evaluator, models
    from lmms_eval.__main__ import parse_eval_args
    from lmms_eval.models.registry_v2 import ModelManifest

    module = register(models, ModelManifest)
    sys.argv = [sys.argv[0], "--model", model, "--tasks", ",".join(tasks), "--output_path", str(Path.cwd())]
    _, arguments = parse_eval_args()
    seen = record(module if model == "parity_reader" else models.get_model(model))
    results = evaluator.simple_evaluate(
        model=model,
        model_args=model_args,
        tasks=tasks,
        num_fewshot=0,
        batch_size=1,
        device="cpu",
        bootstrap_iters=1000,
        cli_args=arguments,
    )
    return results, seen


def register(models: Any, manifest: Any) -> type:
    """Makes the reader a chat model of lmms-eval."""
    from lmms_eval.api.model import lmms

    from tests.support.parity.reader import Reader

    class ParityReader(lmms):
        is_simple = False

        def __init__(self, **_: Any) -> None:
            super().__init__()
            self.reader = Reader()

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [self.reader.answer(messages_of(self, request)) for request in requests]

        def loglikelihood(self, requests: list[Any]) -> Any:
            raise NotImplementedError

        def generate_until_multi_round(self, requests: list[Any]) -> Any:
            raise NotImplementedError

    ParityReader.__module__ = __name__
    setattr(sys.modules[__name__], ParityReader.__name__, ParityReader)
    models.MODEL_REGISTRY_V2.register_manifest(
        manifest(model_id="parity_reader", chat_class_path=f"{__name__}.{ParityReader.__name__}")
    )
    return ParityReader


def messages_of(model: Any, request: Any) -> Any:
    _, doc_to_messages, _, doc_id, task, split = request.args
    return doc_to_messages(model.task_dict[task][split][doc_id])


def record(model_class: Any) -> dict[Any, dict[str, Any]]:
    """Notes, from now on, what models of the class are shown and say, by task and document."""
    from lmms_eval.api.instance import unwrap_generation_output

    from tests.support.parity.reader import render

    seen: dict[Any, dict[str, Any]] = defaultdict(lambda: {"responses": []})
    generate = model_class.generate_until

    def recording(self: Any, requests: list[Any]) -> list[Any]:
        answers = generate(self, requests)
        for request, answer in zip(requests, answers, strict=True):
            of_document = seen[request.task_name, request.doc_id]
            of_document["responses"].append(unwrap_generation_output(answer)[0])
            of_document["rendered"] = render(messages_of(self, request))
        return answers

    model_class.generate_until = recording
    return seen


_OF_THE_RECORD = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "token_counts", "doc_hash", "input_media",
}  # fmt: skip


def recorded(results: dict[str, Any], seen: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    from lmms_eval_grpc.engine.record.plain_json import to_plain

    by_task = {name: {"results": to_plain(row), "samples": []} for name, row in results["results"].items()}
    for name, samples in results["samples"].items():
        filters = [item["name"] for item in results["configs"][name].get("filter_list") or [{"name": "none"}]]
        # Its samples do not say which filter they went through; they come filter by filter.
        size = len(samples) // len(filters)
        for position, sample in enumerate(samples):
            by_task[name]["samples"].append(
                {
                    "doc_id": sample["doc_id"],
                    "filter": filters[position // size],
                    "prompt": sample["arguments"][0],
                    **seen[name, sample["doc_id"]],
                    "filtered": to_plain(sample["filtered_resps"]),
                    "target": str(sample["target"]),
                    "scores": to_plain({key: sample[key] for key in sample.keys() - _OF_THE_RECORD}),
                }
            )
    return by_task


if __name__ == "__main__":
    main()

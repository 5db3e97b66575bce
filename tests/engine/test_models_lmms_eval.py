"""lmms-eval's own backends: listed from files, run in a real child process, each request answered as itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lmms_eval_grpc.engine.api import EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.check import check_config
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.lmms_eval import names
from lmms_eval_grpc.engine.models.lmms_eval.draws import has_signs
from lmms_eval_grpc.engine.models.protocol import GenerationRequest, GenerationResponse, LoglikelihoodRequest
from lmms_eval_grpc.engine.models.replicas.backend import ReplicatedBackend
from lmms_eval_grpc.engine.models.replicas.messages import Load
from lmms_eval_grpc.engine.models.replicas.nursery import Nursery
from lmms_eval_grpc.engine.models.sampling import samples_unless_told
from lmms_eval_grpc.engine.packages import LMMS_EVAL_VARIABLE
from lmms_eval_grpc.engine.run.evaluate import SAMPLES, evaluate
from lmms_eval_grpc.engine.tasks.index import TaskIndex
from tests.support.lmms_eval_files import PACKAGE, RELEASE, needs_lmms_eval
from tests.support.lmms_eval_package import write_package
from tests.support.reporters import Recorder
from tests.support.task_files import datasets_cache, write_task

__all__ = ["datasets_cache"]


def use(patch: pytest.MonkeyPatch, package: Path) -> None:
    patch.setenv(LMMS_EVAL_VARIABLE, str(package))
    registry._entries.cache_clear()
    registry._by_name.cache_clear()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The installed lmms-eval of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        made = write_package(tmp_path_factory.mktemp("site"))
        use(patch, made)
        yield made
    registry._entries.cache_clear()
    registry._by_name.cache_clear()


@pytest.fixture(scope="module")
def nursery(package: Path) -> Iterator[Nursery]:
    """What the models' processes are forked from; one for all tests, because it imports for many seconds."""
    made = Nursery.execute()
    yield made
    made.close()


@pytest.fixture
def load(nursery: Nursery) -> Iterator[Any]:
    made: list[ReplicatedBackend] = []

    def load(model: str, *, force_simple: bool = False, **model_args: Any) -> ReplicatedBackend:
        order = Load(model, model_args, "cpu", None, None, False, force_simple, 1)
        made.append(ReplicatedBackend.load(order, 1, nursery=nursery))
        return made[-1]

    yield load
    for backend in made:
        backend.close()


def ask(backend: ReplicatedBackend, requests: Sequence[Any], method: str = "generate") -> list[GenerationResponse]:
    answers = sorted(
        (answer for batch in getattr(backend, method)(requests) for answer in batch), key=lambda answer: answer.index
    )
    assert [answer.index for answer in answers] == list(range(len(requests)))
    return [answer.response for answer in answers]


def request(text: str, *media: dict[str, Any], **generation: Any) -> GenerationRequest:
    return GenerationRequest([{"role": "user", "content": [*media, {"type": "text", "text": text}]}], generation)


def picture(source: Any) -> dict[str, Any]:
    return {"type": "image", "url": source}


class TestListing:
    def test_its_names_and_aliases_resolve_and_are_marked(self, package: Path) -> None:
        for name in ("talker", "chatterbox", "lmms_eval:talker", "lmms_eval:chatterbox"):
            entry = registry.resolve(name)
            assert entry is not None
            assert (entry.name, entry.source) == ("lmms_eval:talker", "lmms-eval 9.8.7")
            assert (entry.kind, entry.also_simple, entry.own_process) == ("chat", True, True)
        scorer = registry.resolve("scorer")
        assert scorer is not None
        assert (scorer.kind, scorer.visual_cot) == ("simple", True)

    def test_names_that_this_package_has_too_stay_its_own(self, package: Path) -> None:
        ours, theirs = registry.resolve("qwen2_5_vl"), registry.resolve("lmms_eval:qwen2_5_vl")
        assert ours is not None
        assert theirs is not None
        assert (ours.source, theirs.source) == ("", "lmms-eval 9.8.7")
        assert registry.resolve("hf") is registry.resolve("huggingface")  # an alias of talker there
        assert registry.resolve("lmms_eval:hf") is registry.resolve("talker")

    def test_listing_imports_nothing_of_it(self, package: Path) -> None:
        program = (
            "import sys\n"
            "from lmms_eval_grpc.engine.models import registry\n"
            "assert registry.resolve('talker').missing_packages() is not None\n"
            "print([name for name in sys.modules if name.split('.')[0] in ('lmms_eval', 'torch', 'transformers')])\n"
        )
        done = subprocess.run([sys.executable, "-c", program], check=True, timeout=120, capture_output=True, text=True)
        assert done.stdout.strip() == "[]"

    def test_a_registry_that_cannot_be_read_costs_only_its_names(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "__init__.py").write_text("AVAILABLE_SIMPLE_MODELS = {\n")
        assert names.known_models(tmp_path) == []
        assert "models of lmms-eval are not listed" in caplog.text
        (tmp_path / "models" / "__init__.py").write_text("AVAILABLE_SIMPLE_MODELS = {'a': 'A'}\nMODEL_ALIASES = {a: 1}")
        assert [model.name for model in names.known_models(tmp_path)] == ["a"]

    def test_models_of_its_plugins_are_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "their_plugin" / "models").mkdir(parents=True)
        (tmp_path / "their_plugin" / "__init__.py").write_text("raise SystemExit('imported')")
        (tmp_path / "their_plugin" / "models" / "__init__.py").write_text("AVAILABLE_MODELS = {'plugged': 'Plugged'}")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("LMMS_EVAL_PLUGINS", "their_plugin,not_installed")
        write_package(tmp_path / "site")
        known = {model.name: model for model in names.known_models(tmp_path / "site" / "lmms_eval")}
        assert (known["plugged"].simple, known["plugged"].chat) == (True, False)

    @needs_lmms_eval
    def test_all_of_the_real_ones_names_resolve(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, PACKAGE)
            found = [entry for entry in registry.entries() if entry.source]
            assert {entry.source for entry in found} == {f"lmms-eval {RELEASE}"}
            assert len(found) > 100
            for model in names.known_models(PACKAGE):
                for name in (model.name, *model.aliases):
                    theirs, free = registry.resolve(f"lmms_eval:{name}"), registry.resolve(name)
                    assert theirs is not None
                    assert free is theirs or (free is not None and not free.source)
            drawing = {entry.name for entry in found if entry.visual_cot}
        assert drawing == {
            "lmms_eval:bagel_unig2u", "lmms_eval:illume_plus", "lmms_eval:ovis_u1", "lmms_eval:qwen_image_edit",
        }  # fmt: skip
        registry._entries.cache_clear()
        registry._by_name.cache_clear()

    @needs_lmms_eval
    def test_those_that_sample_whatever_they_are_asked_are_known_by_their_code(self) -> None:
        texts = {file.stem: file.read_text() for file in (PACKAGE / "models" / "simple").glob("*.py")}
        drawing = {name for name, text in texts.items() if has_signs(text)}
        assert drawing >= {"moviechat", "llama_vid", "videochat2", "qwen3_5", "mistral3_vl"}
        assert not drawing & {"qwen2_5_vl", "qwen2_vl", "llava_onevision", "internvl2", "qwen3_vl"}


class TestChecks:
    def problems(self, **fields: Any) -> list[str]:
        config = EvaluationConfig(**{"tasks": ("handwritten_digits",), **fields})
        return [problem.field for problem in check_config(config, TaskIndex.open(()))]

    def test_any_arguments_may_be_right(self, package: Path) -> None:
        assert self.problems(model="talker", model_args={"whatever": 1}) == []

    def test_force_simple_needs_a_simple_implementation(self, package: Path) -> None:
        assert self.problems(model="talker", force_simple=True) == []
        assert self.problems(model="broken", force_simple=True) == ["force_simple"]
        args = {"pretrained": "org/model"}
        assert self.problems(model="qwen2_5_vl", model_args=args, force_simple=True) == ["force_simple"]


class TestAsking:
    def test_each_request_gets_its_own_answer_in_windows(self, load: Any) -> None:
        backend = load("talker", pretrained="x")
        assert not backend.capabilities.loglikelihood
        found = ask(backend, [request(f"q{number % 7} number {number}", max_new_tokens=5) for number in range(40)])
        assert [response.text.partition(" cpu/cpu 5 of ")[0] for response in found] == [
            f"q{number % 7} number {number}" for number in range(40)
        ]
        assert max(int(response.text.rpartition(" ")[2]) for response in found) == 16  # as it streams
        assert {(response.input_tokens, response.output_tokens) for response in found} == {(7, 1)}

    def test_a_larger_batch_makes_larger_windows(self, load: Any) -> None:
        found = ask(load("talker", batch_size=8), [request(f"q{number}") for number in range(200)])
        assert max(int(response.text.rpartition(" ")[2]) for response in found) == 32

    def test_media_arrive(self, load: Any, tmp_path: Path, digit_images: list[bytes]) -> None:
        Image.new("RGB", (5, 6)).save(tmp_path / "a.png")
        media = [picture(Image.new("L", (3, 4))), picture(str(tmp_path / "a.png")), picture(digit_images[0])]
        media.append({"type": "video", "url": "/some/film.mp4"})
        (response,) = ask(load("talker"), [request("what?", *media)])
        assert response.text.startswith("<(3, 4)> <(5, 6)> <(8, 8)> </some/film.mp4> what?")
        (response,) = ask(load("talker", force_simple=True), [request("what?", *media, max_new_tokens=3)])
        assert response.text == "what? [(3, 4), (5, 6), (8, 8), 'str'] 3 of 1"

    def test_a_picture_that_cannot_be_read_is_that_requests_error(self, load: Any) -> None:
        found = ask(load("talker"), [request("a"), request("b", picture("/no/such/picture.png")), request("c")])
        assert [response.error is None for response in found] == [True, False, True]
        assert "/no/such/picture.png" in str(found[1].error)

    def test_answers_of_every_form(self, load: Any) -> None:
        asked = ["failed", "budget", "nothing", "pair", "list", "plain", "stop"]
        found = ask(load("misbehaving"), [request(text, until=["END"]) for text in asked])
        assert [response.text for response in found] == ["", "", "", "a pair", "a list", "plain", "before "]
        assert [bool(response.error) for response in found] == [True, True, True, False, False, False, False]
        assert "REQUEST_FAILED after 3 retries" in str(found[0].error)
        assert (found[3].input_tokens, found[3].output_tokens) == (3, 2)

    def test_a_request_that_fails_costs_no_other(self, load: Any) -> None:
        texts = [f"q{number}" for number in range(20)]
        texts[3] = texts[12] = "poison"
        found = ask(load("misbehaving"), [request(text) for text in texts])
        assert [position for position, response in enumerate(found) if response.error] == [3, 12]
        assert found[3].error == "ValueError: I cannot bear this"
        assert [response.text for response in found if not response.error] == [one for one in texts if one != "poison"]

    def test_too_few_answers_are_no_answers(self, load: Any) -> None:
        found = ask(load("misbehaving"), [request("a"), request("short")])
        assert [response.text for response in found] == ["a", ""]
        assert "returned 0 answers to 1 requests" in str(found[1].error)

    def test_what_fails_over_every_request_ends_the_job(self, load: Any) -> None:
        with pytest.raises(EvaluationError, match="AttributeError: transformers has no such thing") as caught:
            ask(load("broken"), [request(f"q{number}") for number in range(4)])
        assert caught.value.reason == "BACKEND_FAILED"

    def test_likelihoods_of_simple_backends_are_losses(self, load: Any) -> None:
        backend = load("scorer", strength=2.0)
        assert backend.capabilities.loglikelihood
        assert backend.capabilities.loglikelihood_is_loss
        assert backend.capabilities.may_sample is samples_unless_told
        requests = [LoglikelihoodRequest(request("say q3").messages, f" a{number}") for number in range(5)]
        found = ask(backend, requests, "loglikelihood")
        assert [response.log_probability for response in found] == [3.0, 3.0, 3.0, 0.5, 3.0]
        assert [response.is_greedy for response in found] == [False, False, False, True, False]

    def test_drawing(self, load: Any) -> None:
        backend = load("scorer")
        assert backend.capabilities.visual_cot
        assert not load("talker").capabilities.visual_cot
        (response,) = ask(backend, [request("a cat", visual_cot=True)])
        assert response.text == "drawn: a cat"

    def test_its_progress_bars_stay_out_of_the_log(self, load: Any, capfd: pytest.CaptureFixture[str]) -> None:
        backend = load("talker")
        ask(backend, [request("q")])
        backend.close()
        printed = capfd.readouterr().err
        assert "replica 0: the model is freed" in printed
        assert "it/s" not in printed


class TestLoading:
    def refuse(self, load: Any, model: str, reason: str, **model_args: Any) -> str:
        with pytest.raises(EvaluationError) as caught:
            load(model, **model_args)
        assert caught.value.reason == reason
        return caught.value.message

    def test_an_argument_that_it_lacks_is_named_beside_those_it_has(self, load: Any) -> None:
        message = self.refuse(load, "scorer", "MODEL_LOAD_FAILED", strenght=2.0)
        assert "'strenght'" in message
        assert "strength" in message.replace("strenght", "")
        message = self.refuse(load, "talker", "MODEL_LOAD_FAILED", volume=2)
        assert "Unexpected kwargs: {'volume': 2}" in message
        assert "polite" in message

    def test_a_device_map_that_is_given_stands(self, load: Any) -> None:
        (response,) = ask(load("talker", device_map="elsewhere"), [request("q")])
        assert response.text.startswith("q cpu/elsewhere")

    def test_a_package_that_it_needs_is_named(self, load: Any) -> None:
        assert "a_package_that_is_not_there" in self.refuse(load, "gone", "MISSING_PACKAGES")

    def test_the_identity_follows_the_checkpoint_and_the_arguments(
        self, load: Any, tmp_path: Path, tiny_checkpoint: Path
    ) -> None:
        identity = load("talker", pretrained=str(tiny_checkpoint)).identity
        assert identity["lmms_eval"] == "9.8.7"
        assert identity["model_class"] == "lmms_eval.models.chat.talker.Talker"
        assert len(identity["weights_digest"]) == 64
        assert identity["arguments"] == {"pretrained": str(tiny_checkpoint)}
        assert load("talker", pretrained="org/model", batch_size=3).identity["weights_digest"] is None
        assert load("talker", force_simple=True).identity["model_class"] == "lmms_eval.models.simple.talker.Talker"
        prompt = tmp_path / "prompt.txt"
        seen = []
        for text in ("Be brief.", "Be long."):
            prompt.write_text(text)
            seen.append(load("talker", device_map=str(prompt)).identity["files"]["device_map"])
        assert seen[0] != seen[1]


def test_a_job_whose_task_imports_lmms_eval_too(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task's code gets this package's modules in this process, the model gets lmms-eval's in its own.

    Nor does the model find what the task puts in its own way, as some tasks do.
    """
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tqdm.py").write_text("raise RuntimeError('this is the task's own')")
    utils = """
        import sys
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).parent))
        import lmms_eval.api.instance
        from lmms_eval.filters import Filter

        def process_results(doc, results):
            return {"right": float(doc["question"] in results[0]), "shims": float("shims" in lmms_eval.__file__)}
    """
    metrics = "".join(
        f"  - metric: {name}\n    aggregation: mean\n    higher_is_better: true\n" for name in ("right", "shims")
    )
    specific = "lmms_eval_specific_kwargs:\n  talker:\n    pre_prompt: 'for talker: '\n  default:\n    pre_prompt: ''\n"
    write_task(
        tmp_path / "tasks",
        f"process_results: !function utils.process_results\n{specific}metric_list:\n{metrics}",
        utils=utils,
    )
    config = EvaluationConfig("lmms_eval:talker", ("toy",), {"polite": True}, include_paths=(tmp_path / "tasks",))
    outcome = evaluate(config, tmp_path / "run", Recorder())
    scores = {metric.name: metric.value for metric in outcome.tasks[0].metrics}
    assert scores == {"right": 1.0, "shims": 1.0}
    assert outcome.manifest["model"]["model_class"] == "lmms_eval.models.chat.talker.Talker"
    lines = map(json.loads, (tmp_path / "run" / SAMPLES).read_text().splitlines())
    assert [line["responses"][0].split()[0] for line in lines] == [f"q{number}" for number in range(6)]

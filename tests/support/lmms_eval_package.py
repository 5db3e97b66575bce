"""A small package laid out as lmms-eval's models are: real files for a real import, without its dependencies.

Written anew for tests. Its backends say what they were shown, and some misbehave in the ways of real ones.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

FILES = {
    "lmms_eval/__init__.py": "",
    "lmms_eval/tasks/__init__.py": "",
    "lmms_eval/api/__init__.py": "",
    "lmms_eval/api/instance.py": """
        from dataclasses import dataclass, field

        @dataclass
        class TokenCounts:
            input_tokens: int | None = None
            output_tokens: int | None = None
            reasoning_tokens: int | None = None

        @dataclass
        class GenerationResult:
            text: str
            token_counts: TokenCounts | None = None

        @dataclass
        class Instance:
            request_type: str
            arguments: tuple
            idx: int
            metadata: dict = field(default_factory=dict)

            def __post_init__(self):
                for name, key in (("task_name", "task"), ("doc_id", "doc_id"), ("repeats", "repeats")):
                    setattr(self, name, self.metadata[key])

            @property
            def args(self):
                return self.arguments
    """,
    "lmms_eval/api/model.py": """
        class lmms:
            is_simple = True

            def __init__(self):
                self.task_dict = {}

            def generate_visual_cot(self, requests):
                raise NotImplementedError

            def clean(self):
                print("the model is freed", flush=True)
    """,
    "lmms_eval/models/__init__.py": """
        import importlib

        print("lmms_eval.models is imported", flush=True)

        AVAILABLE_SIMPLE_MODELS = {"talker": "Talker", "scorer": "Scorer", "gone": "Gone", "own_words": "own.Words"}
        AVAILABLE_CHAT_TEMPLATE_MODELS = {
            "talker": "Talker",
            "qwen2_5_vl": "Namesake",
            "misbehaving": "Misbehaving",
            "broken": "Broken",
        }
        MODEL_ALIASES: dict[str, tuple[str, ...]] = {"talker": ("chatterbox", "hf"), "scorer": ()}

        def get_model(name, force_simple=False):
            name = next((key for key, others in MODEL_ALIASES.items() if name in others), name)
            simple = name in AVAILABLE_SIMPLE_MODELS and (force_simple or name not in AVAILABLE_CHAT_TEMPLATE_MODELS)
            table = AVAILABLE_SIMPLE_MODELS if simple else AVAILABLE_CHAT_TEMPLATE_MODELS
            module = importlib.import_module(f"lmms_eval.models.{'simple' if simple else 'chat'}.{name}")
            return getattr(module, table[name])
    """,
    "lmms_eval/models/simple/__init__.py": "",
    "lmms_eval/models/chat/__init__.py": "",
    "lmms_eval/models/simple/talker.py": """
        from lmms_eval.api.model import lmms

        class Talker(lmms):
            def __init__(
                self, pretrained="none", device="cuda", device_map="auto", batch_size=1, polite: bool = False, **kwargs
            ):
                super().__init__()
                assert kwargs == {}, f"Unexpected kwargs: {kwargs}"
                self.places, self.batch_size, self.polite = f"{device}/{device_map}", batch_size, polite

            def loglikelihood(self, requests):
                raise NotImplementedError("no likelihoods")

            def generate_until(self, requests):
                answers = []
                for instance in requests:
                    context, gen_kwargs, doc_to_visual, doc_id, task, split = instance.args
                    visuals = doc_to_visual(self.task_dict[task][split][doc_id])
                    kinds = [getattr(visual, "size", None) or type(visual).__name__ for visual in visuals]
                    answers.append(f"{context} {kinds} {gen_kwargs.pop('max_new_tokens', None)} of {len(requests)}")
                return answers
    """,
    "lmms_eval/models/chat/talker.py": """
        from tqdm import tqdm

        from lmms_eval.api.instance import GenerationResult, TokenCounts
        from lmms_eval.models.simple.talker import Talker as SimpleTalker

        class Talker(SimpleTalker):
            is_simple = False

            def generate_until(self, requests):
                answers = {}
                # Sorted, as backends do, and put back in order.
                for position in tqdm(sorted(range(len(requests)), key=lambda position: requests[position].args[0])):
                    _, doc_to_messages, gen_kwargs, doc_id, task, split = requests[position].args
                    messages = doc_to_messages(self.task_dict[task][split][doc_id])
                    said = [
                        item["text"] if item["type"] == "text" else f"<{getattr(item['url'], 'size', item['url'])}>"
                        for message in messages for item in message["content"]
                    ]
                    messages[0]["content"].clear()  # as those do that put a system prompt there
                    text = f"{' '.join(said)} {self.places} {gen_kwargs.pop('max_new_tokens', None)} of {len(requests)}"
                    answers[position] = GenerationResult(text, TokenCounts(7, len(said)))
                return [answers[position] for position in range(len(requests))]
    """,
    "lmms_eval/models/chat/qwen2_5_vl.py": """
        from lmms_eval.models.chat.talker import Talker

        class Namesake(Talker):
            pass
    """,
    "lmms_eval/models/simple/scorer.py": """
        from lmms_eval.models.simple.talker import Talker

        class Scorer(Talker):
            def __init__(self, strength=1.0):
                super().__init__()
                self.strength = strength

            def loglikelihood(self, requests):
                answers = []
                for instance in requests:
                    context, continuation, doc_to_visual, doc_id, task, split = instance.args
                    doc_to_visual(self.task_dict[task][split][doc_id])
                    # A loss: the right answer to "q3" is "a3".
                    right = context.split()[-1].replace("q", "a") == continuation.strip()
                    answers.append((0.25 * self.strength if right else 3.0, right))
                return answers

            def generate_visual_cot(self, requests):
                return [f"drawn: {instance.args[0]}" for instance in requests]
    """,
    "lmms_eval/models/simple/gone.py": "import a_package_that_is_not_there",
    "lmms_eval/models/chat/misbehaving.py": """
        from lmms_eval.models.chat.talker import Talker

        class Misbehaving(Talker):
            def generate_until(self, requests):
                answers = []
                for instance in requests:
                    text = instance.args[0]
                    if "poison" in text:
                        raise ValueError("I cannot bear this")
                    answers.append({
                        "failed": "[LMMS_EVAL_REQUEST_FAILED after 3 retries] timeout",
                        "budget": "[LMMS_EVAL_BUDGET_EXCEEDED]",
                        "nothing": None,
                        "pair": ("a pair", {"input_tokens": 3, "output_tokens": 2}),
                        "list": ["a list"],
                        "stop": "before END after",
                    }.get(text, text))
                if "short" in text:
                    answers.pop()
                return answers
    """,
    "lmms_eval/models/chat/broken.py": """
        from lmms_eval.models.chat.talker import Talker

        class Broken(Talker):
            def generate_until(self, requests):
                raise AttributeError("transformers has no such thing any more")
    """,
}


def write_package(folder: Path) -> Path:
    """The package's folder, in ``folder``."""
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    info = folder / "lmms_eval-9.8.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lmms_eval\nVersion: 9.8.7\n")
    return folder / "lmms_eval"

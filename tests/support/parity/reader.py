"""A model that finds its answers in what it is shown, and words them as models do: sometimes wrong, rarely tersely.

Each made picture, recording or film carries a few answers, the right one first; a text without media carries them in
double brackets. Which one the reader takes, and its words, depend on the whole rendered prompt and on nothing else but
how often it was asked before, so two systems get equal answers exactly if they show it the same.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rendered = list[list[Any]]
"""Messages as plain JSON: ``[role, [["text", text] | [kind of medium, digest], …]]``."""

FILM_MARK = b"answers:"
LOUDNESS = 64
"""A recording's samples are the bytes of its answers, times this."""
SHARE_RIGHT = 0.6

_WORDINGS = {
    "letter": [
        "{}",
        "{}",
        "{}.",
        "({})",
        "{lower}",
        "The answer is ({}).",
        "The correct answer is {} because of what can be seen.",
        "Answer: {}",
        "{}) is what fits best",
        "{}. That one.",
    ],
    "yes or no": ["{}", "{}", "{lower}", "{}.", "{}, because it can be seen.", "I think {lower}", "{upper}"],
    "number": [
        *["{}", "{}", "{}", "{}.", "about {}", "{}%", "${}", "It is {} in all", "\\boxed{{{}}}"],
        *["The answer is {}.", "The answer is {}.", "The answer is {}."],
    ],
    "place": ["{}", "{}", "It is at {}.", "Here: {}", "{}, I think"],
    "words": ["{}", "{}", "{lower}", "{upper}", "{}.", "The answer is {}.", '"{}"', "{misspelt}", "{misspelt}"],
    "sentence": ["{}", "{lower}", "{}.", "{without_a_word}", "{without_a_word}", "{misspelt}", "{misspelt}, um"],
}


class Reader:
    """The model. Not for several threads at once."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()

    def answer(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Raises ValueError where nothing can be read."""
        # lmms-eval hands some recordings on as films; what they hold is the same.
        key = json.dumps(render(messages)).replace('["video", ', '["audio", ')
        generator = random.Random(f"{hashlib.sha256(key.encode()).hexdigest()} {self._asked[key]}")
        self._asked[key] += 1
        answers = read_answers(messages)
        text = answers[0] if generator.random() < SHARE_RIGHT else generator.choice(answers)
        return _word(text, generator)


def render(messages: Sequence[Mapping[str, Any]]) -> Rendered:
    """What a model is shown, media by the digest of their content."""
    return [
        [
            message["role"],
            [
                ["text", item["text"]]
                if item["type"] == "text"
                else [item["type"], hashlib.sha256(_content(item["url"])).hexdigest()[:16]]
                for item in message["content"]
            ],
        ]
        for message in messages
    ]


def read_answers(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The answers in the last medium that carries any, else those in the text."""
    items = [item for message in messages for item in message["content"]]
    for item in reversed(items):
        if item["type"] != "text" and (found := _decode(_content(item["url"]))):
            return found
    marked = [text for item in items if item["type"] == "text" for text in re.findall(r"\[\[(.+?)\]\]", item["text"])]
    if not marked:
        raise ValueError("there is nothing to read in the prompt")
    return str(marked[-1]).split("|")


def encode(answers: Sequence[str]) -> bytes:
    """The bytes that stand in a medium: the length of what follows, then the answers as JSON."""
    content = json.dumps(answers).encode()
    return len(content).to_bytes(2, "big") + content


def _decode(content: bytes) -> list[str]:
    length = int.from_bytes(content[:2], "big")
    if not 2 <= length <= len(content) - 2:
        return []
    try:
        answers = json.loads(content[2 : 2 + length])
    except ValueError:
        return []
    return answers if isinstance(answers, list) else []


def _content(source: Any) -> bytes:
    """The bytes in which a medium's answers stand, whatever form a task gives it in."""
    if isinstance(source, str | Path):
        return Path(source).read_bytes().rpartition(FILM_MARK)[2]
    if isinstance(source, Mapping):
        return _samples(source)
    return bytes(source.convert("L").tobytes())


def _samples(recording: Mapping[str, Any]) -> bytes:
    return bytes(round(float(sample) * 32768 / LOUDNESS) for sample in recording["array"])


def _kind(text: str) -> str:
    if re.fullmatch("[A-Z]", text):
        return "letter"
    if text.lower() in ("yes", "no"):
        return "yes or no"
    if re.fullmatch(r"-?[\d.,]+%?", text):
        return "number"
    if text[:1] in ("[", "("):
        return "place"
    return "sentence" if text.count(" ") >= 3 else "words"


def _word(text: str, generator: random.Random) -> str:
    middle = generator.randrange(len(text))
    words = text.split()
    skipped = generator.randrange(len(words))
    return generator.choice(_WORDINGS[_kind(text)]).format(
        text,
        lower=text.lower(),
        upper=text.upper(),
        misspelt=text[:middle] + text[middle + 1 :],
        without_a_word=" ".join(word for position, word in enumerate(words) if position != skipped),
    )

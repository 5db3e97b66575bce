"""Answers as models give them, good and bad, drawn at random."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

_SIGNS = ["", "", "", ".", ",", ":", ")", "!", "?", ";", "'", '"', "\n", " "]
_PHRASES = [
    "The answer is {}",
    "the correct answer is ({}).",
    "I choose {} because A is wrong",
    "{}",
    "{}.",
    "({})",
    "{}: ",
    "{}) ",
    "Answer: {}",
    "So the final result is = {}",
    "It could be {}, thus {}",
    "{} is what I see in the image here",
    "\\boxed{{{}}}",
    "정답은 {}",
    "选{}",
    "There is not one {} but a {} there, isnt it",
    "{}\n\n{}",
    "option {} and not option {}",
]
_WORDS = """
    yes no Yes No YES a an the dog Cat A B C D E F Apple banana two 3 1,234 4.50 .5 1e3 50% -7 none I'm isnt 12:30 x-y
"""


def random_answer(generator: random.Random, options: Sequence[str] = ()) -> str:
    """One answer; ``options`` are texts that are to occur in many."""
    pool = [*_WORDS.split(), *options, *options]
    if generator.random() < 0.03:
        return ""
    if generator.random() < 0.1:
        return "".join(generator.choices(string.printable, k=generator.randrange(1, 30)))
    phrase = generator.choice(_PHRASES)
    text = phrase.format(*(generator.choice(pool) for _ in range(phrase.count("{}") + 1)))
    if generator.random() < 0.4:
        text = " ".join([text, *generator.choices(pool, k=generator.randrange(1, 8))])
    return generator.choice(["", "", " ", "\n"]) + text + generator.choice(_SIGNS)


def random_answers(seed: int, count: int, options: Sequence[str] = ()) -> list[str]:
    generator = random.Random(seed)
    return [random_answer(generator, options) for _ in range(count)]

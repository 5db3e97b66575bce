"""Options with letters: writing them into a prompt, and finding the letter that an answer means."""

import string

LETTERS = string.ascii_uppercase

# Where an answer says one of these, the letters after it are what it means; from lmms-eval, so that scores agree.
_ANNOUNCEMENTS = (
    *(
        f"{article}{quality}{noun} is"
        for article in ("", "the ")
        for quality, noun in (
            ("", "answer"),
            ("correct ", "answer"),
            ("best ", "answer"),
            ("correct ", "option"),
            ("best ", "option"),
            ("", "choice"),
            ("correct ", "choice"),
        )
    ),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:"),
    *("答案是", "答案为", "选"),
    "答えは",
)
_MARKED_FORMS = ("({})", "{}.", "{}:", "{})", "{} ")
"""How a letter is marked as an option's, the clearest first."""


def lettered(options, form="{}. {}", separator="\n"):
    """``A. first`` and so on, one line per option."""
    return separator.join(form.format(letter, option) for letter, option in zip(LETTERS, options, strict=False))


def extract_letter(answer, letters="ABCD"):
    """The option letter that a free-form answer means; empty when there is none.

    Tried in this order: the answer starts with a letter standing alone, ends with one, announces one ("the answer is"),
    marks one as ``(A)``, ``A.``, ``A:``, ``A)`` or by a space, contains one. Among several of one kind the last one
    in the text counts.
    """
    text = answer.strip()
    for sign in ",.!?;:'\"":
        text = text.strip(sign)
    text = f" {text} "
    return _at_the_ends(text.strip(), letters) or _announced(text, letters) or _marked(text, letters)


def _at_the_ends(text, letters):
    for inner, outer in ((slice(1, 2), slice(0, 1)), (slice(-2, -1), slice(-1, None))):
        if text[outer] and text[outer] in letters and not text[inner].isalpha():
            return text[outer]
    return ""


def _announced(text, letters):
    lower = text.lower()
    ends = [lower.find(phrase) + len(phrase) for phrase in _ANNOUNCEMENTS if phrase in lower]
    places = {letter: [text.find(letter, end) for end in ends] for letter in letters}
    return _last({letter: max(found, default=-1) for letter, found in places.items()})


def _marked(text, letters):
    for form in (*_MARKED_FORMS, "{}"):
        found = _last({letter: text.rfind(form.format(letter)) for letter in letters})
        if found:
            return found
    return ""


def _last(places):
    letter = max(places, key=places.__getitem__)
    return letter if places[letter] >= 0 else ""

"""Which option a free answer to a multiple-choice question names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

DEFAULT_LETTERS = tuple("ABCDEFGH")

_ANNOUNCEMENTS = (
    *(f"{kind}answer is" for kind in ("", "the ", "the correct ", "correct ", "the best ", "best ")),
    *(f"{kind}option is" for kind in ("the correct ", "correct ", "the best ", "best ")),
    *(f"{kind}choice is" for kind in ("", "the ", "the correct ", "correct ")),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_EDGE_PUNCTUATION = (",", ".", "!", "?", ";", ":", "'", '"')
# How sure a form of writing the letter makes that it is the answer.
_START, _END, _ANNOUNCED, _IN_PARENTHESES, _BEFORE_PERIOD, _BEFORE_COLON, _BEFORE_PARENTHESIS, _BEFORE_SPACE = (
    10, 9, 7, 6, 5, 4, 3, 2,
)  # fmt: skip
_ANYWHERE = 0


def find_choice_letter(response: str, letters: Sequence[str] | None = None) -> str:
    """The letter that ``response`` names, or empty text.

    Of all places where one of ``letters`` stands, the surest form wins, and of equally sure ones the last, because a
    model that thinks aloud names its answer at the end: at the start or end alone; behind "the answer is" and the
    like; as ``(A)``, ``A.``, ``A:``, ``A)``, ``A`` before a space; failing these, anywhere.
    """
    text = response.strip() if response else ""
    if not text:
        return ""
    for mark in _EDGE_PUNCTUATION:
        text = text.strip(mark)
    text = f" {text} "
    letters = letters or DEFAULT_LETTERS
    found = list(_forms(text, letters)) or [(_ANYWHERE, text.rfind(one), one) for one in letters if one in text]
    # Of equal certainty and place the first letter.
    return max(found, key=lambda candidate: candidate[:2])[2] if found else ""


def _forms(text: str, letters: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """(certainty, position, letter) of every form that occurs, each at its last occurrence."""
    around = (
        (_IN_PARENTHESES, "(", ")"),
        (_BEFORE_PERIOD, "", "."),
        (_BEFORE_COLON, "", ":"),
        (_BEFORE_PARENTHESIS, "", ")"),
        (_BEFORE_SPACE, "", " "),
    )
    for certainty, before, after in around:
        for one in letters:
            position = text.rfind(f"{before}{one}{after}")
            if position >= 0:
                yield certainty, position, one
    lower = text.lower()
    for announcement in _ANNOUNCEMENTS:
        start = lower.find(announcement)
        if start >= 0:
            for one in letters:
                position = text.find(one, start + len(announcement))
                if position >= 0:
                    yield _ANNOUNCED, position, one
    bare = text.strip()
    for one in letters:
        if bare.startswith(one) and not bare[1:2].isalpha():
            yield _START, 0, one
        if bare.endswith(one) and not bare[:-1][-1:].isalpha():
            yield _END, len(text) - 1, one

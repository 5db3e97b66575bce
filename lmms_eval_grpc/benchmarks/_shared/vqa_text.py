"""Answers made comparable in the way of the VQA challenge's evaluation server."""

import re

NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32
"""The official code gives re.UNICODE, which is 32, where the number of replacements belongs; scores depend on it."""
COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")

# The apostrophes that people leave out. With one: aint -> ain't.
_ONE_APOSTROPHE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
    it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
    they'd they'll they're they've wasn't we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've 'twas
"""
# With two, either may be left out: couldn'tve and couldnt've -> couldn't've.
_TWO_APOSTROPHES = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
    there'd've they'd've we'd've who'd've wouldn't've you'd've
"""
_IRREGULAR = {
    "somebody'd": "somebodyd",  # the wrong way round in the official table
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
}
CONTRACTIONS = {
    **{word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()},
    **{word.replace("'", "", 1): word for word in _TWO_APOSTROPHES.split()},
    **{"".join(word.rsplit("'", 1)): word for word in _TWO_APOSTROPHES.split()},
    **_IRREGULAR,
}


def normalise_answer(text):
    """``text`` in lower case, without punctuation and articles, number words as digits, contractions spelt out."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip(), COMMA_IN_NUMBER)
    words = ("0" if word == "none" else NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def without_punctuation(text, comma_in_number):
    """``text`` without punctuation; a sign between two letters becomes a space, unless a number has a comma."""
    joins = comma_in_number.search(text) is not None
    cleaned = text
    for sign in _PUNCTUATION:
        removed = joins or f"{sign} " in text or f" {sign}" in text
        cleaned = cleaned.replace(sign, "" if removed else " ")
    return _PERIOD.sub("", cleaned, count=_MOST_PERIODS)

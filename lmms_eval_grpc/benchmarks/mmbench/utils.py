"""MMBench: an answer's option by the authors' rules, what these leave open by a judge or by other rules."""

from lmms_eval_grpc.benchmarks._shared import judge
from lmms_eval_grpc.benchmarks._shared.choices import extract_letter
from lmms_eval_grpc.benchmarks._shared.groups import grouped

ROTATION = 10**6
"""Rows n, n + a million, n + two million, … ask question n with the options in another order."""

_MARKS = (
    ("", ""),
    ("", "."),
    ("", ","),
    ("", ":"),
    ("", ")"),
    ("", ")."),
    ("(", ")"),
    ("(", ")."),
    (":", ""),
    (":", ","),
    (":", "."),
    (":", ")"),
    (":", ")."),
)

JUDGE_PROMPT = (
    "You are an AI assistant who will help me to match an answer with several options of a single-choice question. "
    "You are provided with a question, several options, and an answer, and you need to find which option is most "
    "similar to the answer. If the meaning of all options are significantly different from the answer, output E. "
    "Your should output a single uppercase character in A, B, C, D (if they are valid options), and E. \n"
    "Example 1: \nQuestion: What is the main object in image?\nOptions: A. teddy bear B. rabbit C. cat D. dog\n"
    "Answer: a cute teddy bear\nYour output: A\n"
    "Example 2: \nQuestion: What is the main object in image?\nOptions: A. teddy bear B. rabbit C. cat D. dog\n"
    "Answer: Spider\nYour output: E\n"
    "Example 3: \nQuestion: {}?\nOptions: {}\nAnswer: {}\nYour output: "
)


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    hint = f"{doc['hint']} " if _is_given(doc["hint"]) else ""
    options = "\n".join(f"{letter}. {text}" for letter, text in _options(doc, "ABCDE").items())
    text = f"{hint}{doc['question']} There are several options:\n{options}".rstrip("\n")
    if lmms_eval_specific_kwargs:
        return f"{text}\n{lmms_eval_specific_kwargs['post_prompt']}"
    return text


def process_results(doc, results):
    answer, options = results[0].strip(), _options(doc, "ABCD")
    letter = read_option(answer, options)
    undecided = not letter
    if undecided:
        letter = ask_judge(doc, options, answer) if judge.configured() else extract_letter(answer, list(options))
    return {"gpt_eval_score": _result(doc, answer, letter), "undecided_by_rules": float(undecided)}


def process_results_by_rules(doc, results):
    answer, options = results[0].strip(), _options(doc, "ABCD")
    letter = read_option(answer, options) or extract_letter(answer, list(options))
    return {"gpt_eval_score": _result(doc, answer, letter)}


def read_option(answer, options):
    """The letter that stands in ``answer`` alone among its words, or whose text alone is in it; empty if neither."""
    if "Failed to obtain answer via API" in answer:
        return ""
    return _option_by_letter(answer.split()) or _option_by_text(answer.lower(), options)


def ask_judge(doc, options, answer):
    """The judge's option for ``answer``; E, which is never right, if its answer names none. Raises judge.JudgeError."""
    listed = "There are several options: \n" + "".join(f"{letter}. {text}\n" for letter, text in options.items())
    reply = judge.ask(JUDGE_PROMPT.format(doc["question"], listed, answer), max_tokens=256)
    return read_option(reply, options) or "E"


def share_of_questions(results):
    """The percentage of questions with the right option in every rotation; those without a first row are left out."""
    hits = total = 0.0
    for rotations, copies in grouped(results, lambda result: result["question"], lambda result: result["index"]):
        if any(result["index"] < ROTATION for result in rotations):
            total += copies
            hits += copies * all(result["score"] for result in rotations)
    return 100 * hits / total if total else 0.0


def _result(doc, answer, letter):
    return {
        "index": doc["index"],
        "question": doc["index"] % ROTATION,
        "category": doc["category"],
        "L2-category": doc["L2-category"],
        "prediction": answer,
        "letter": letter,
        "score": float(letter == doc["answer"]),
    }


def _options(doc, letters):
    return {letter: doc[letter] for letter in letters if _is_given(doc.get(letter))}


def _is_given(value):
    """Whether a field has a value: an empty one is None, NaN, "" or the text "nan", depending on the copy."""
    return bool(value) and value == value and value != "nan"


def _option_by_letter(words):
    for number, (before, after) in enumerate(_MARKS):
        found = [letter for letter in "ABCDE" if f"{before}{letter}{after}" in words]
        # A bare A in an answer of more than three words may be the article.
        if len(found) == 1 and not (number == 0 and "A" in words and len(words) > 3):
            return found[0]
    return ""


def _option_by_text(answer, options):
    found = [letter for letter, text in options.items() if str(text).lower() in answer]
    return found[0] if len(found) == 1 else ""

"""The prompt by which MathVista's authors have a language model read the value out of an answer."""

from lmms_eval_grpc.benchmarks.mathvista.prompts import LETTER_HINT, value_hint

_TASK = (
    "Please read the following example. Then extract the answer from the model response and type it at the end of the "
    "prompt."
)
_EXAMPLES = (
    (
        value_hint("integer"),
        "Which number is missing?",
        "The number missing in the sequence is 14.",
        "14",
    ),
    (
        value_hint("float1"),
        "What is the fraction of females facing the camera?",
        "The fraction of females facing the camera is 0.6, which means that six out of ten females in the group are "
        "facing the camera.",
        "0.6",
    ),
    (
        value_hint("float2"),
        "How much money does Luca need to buy a sour apple candy and a butterscotch candy? (Unit: $)",
        "Luca needs $1.45 to buy a sour apple candy and a butterscotch candy.",
        "1.45",
    ),
    (
        value_hint("list"),
        "Between which two years does the line  graph saw its maximum peak?",
        "The line graph saw its maximum peak between 2007 and 2008.",
        "[2007, 2008]",
    ),
    (
        LETTER_HINT,
        "What fraction of the shape is blue?\nChoices:\n(A) 3/11\n(B) 8/11\n(C) 6/11\n(D) 3/5",
        "The correct answer is (B) 8/11.",
        "B",
    ),
)


def extraction_prompt(query, response):
    examples = [
        f"{hint}\nQuestion: {question}\n\nModel response: {answer}\n\nExtracted answer: {value}"
        for hint, question, answer, value in _EXAMPLES
    ]
    return "\n\n".join([_TASK, *examples, f"{query}\n\n{response}", "Extracted answer: "])

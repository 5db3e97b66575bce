"""MathVista's prompts (github.com/lupantech/MathVista): a hint for the kind of answer, then question and choices."""

from lmms_eval_grpc.benchmarks._shared.choices import lettered

LETTER_HINT = "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."
_KINDS = {
    "integer": ("an integer answer", "value, e.g., 1, 2, 3,"),
    "float1": ("a floating-point number with one decimal place", "value, e.g., 1.2, 1.3, 1.4,"),
    "float2": ("a floating-point number with two decimal places", "value, e.g., 1.23, 1.34, 1.45,"),
    "list": ("a Python list as an answer", "list, e.g., [1, 2, 3], [1.2, 1.3, 1.4],"),
}
_SHORT_KINDS = {
    "integer": "a single integer number",
    "float1": "a single floating-point number with one decimal place",
    "float2": "a single floating-point number with two decimal places",
    "list": "a Python list",
}
_ENDINGS = {"solution": "Solution: "}
SHOT_TYPES = ("solution", "step-by-step", "reason-first", "format-prompt")


def doc_to_text(doc, lmms_eval_specific_kwargs):
    kwargs = lmms_eval_specific_kwargs
    style = kwargs["shot_type"]
    if style not in SHOT_TYPES:
        raise ValueError(f"shot_type must be one of {', '.join(SHOT_TYPES)}, but is {style!r}")
    if kwargs.get("shot"):
        raise ValueError(
            f"shot must be 0, because MathVista's worked examples are not shipped, but is {kwargs['shot']}"
        )
    question = doc["question"] if style == "format-prompt" else f"Question: {doc['question']}"
    if doc.get("unit"):
        question += f" (Unit: {doc['unit']})"
    body = [question, _choices(doc, style), *_descriptions(doc, kwargs)]
    hint = _hint(doc, style)
    parts = [hint, *body] if style == "reason-first" else [*body, hint]
    return "\n".join(part for part in (*parts, _ENDINGS.get(style, "")) if part).strip()


def _choices(doc, style):
    if not doc["choices"]:
        return ""
    if style == "format-prompt":
        return lettered(doc["choices"])
    return "Choices:\n" + lettered(doc["choices"], form="({}) {}")


def _descriptions(doc, kwargs):
    if kwargs.get("use_caption") and doc.get("caption"):
        yield f"Image description: {doc['caption']}"
    if kwargs.get("use_ocr") and doc.get("ocr"):
        yield f"Image detected text: {doc['ocr']}"


def _hint(doc, style):
    multiple = doc["question_type"] == "multi_choice"
    kind = "letter" if multiple else _kind(doc)
    if style == "format-prompt":
        if multiple:
            return "Answer with the option's letter from the given choices directly."
        return f"Answer the question using {_SHORT_KINDS[kind]}."
    if style == "reason-first":
        if multiple:
            return (
                "First perform reasoning, then finally select the question from the choices in the following format: "
                "Answer: xxx."
            )
        what, example = _KINDS[kind]
        return (
            f"First perform reasoning, then finally answer the question requiring {what} and provide the final "
            f"{example} at the end in the following format: Answer: xxx."
        )
    if multiple:
        return LETTER_HINT
    return value_hint(kind)


def value_hint(kind):
    what, example = _KINDS[kind]
    return f"Hint: Please answer the question requiring {what} and provide the final {example} at the end."


def _kind(doc):
    kind = doc["answer_type"]
    if kind == "float":
        kind += str(int(doc["precision"]))
    if kind not in _KINDS:
        raise ValueError(f"answer_type {doc['answer_type']!r} with precision {doc['precision']!r} is not MathVista's")
    return kind

"""ScienceQA: a hint before the question, and answers that are a letter or start with one and a full stop."""

from lmms_eval_grpc.benchmarks._shared.choices import LETTERS, lettered
from lmms_eval_grpc.benchmarks._shared.documents import between_prompts


def doc_to_visual(doc):
    return [] if doc["image"] is None else [doc["image"].convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs):
    form, options = lmms_eval_specific_kwargs["format"], lettered(doc["choices"])
    if form == "qwen_vl":
        return f"Context: {doc['hint'] or 'N/A'}\nQuestion: {doc['question']}\nOptions: {options}\nAnswer:"
    if form != "default":
        raise ValueError(f"format must be default or qwen_vl, but is {form!r}")
    hint = f"Context: {doc['hint']}\n" if doc["hint"] else ""
    return between_prompts(f"{hint}{doc['question']}\n{options}", lmms_eval_specific_kwargs)


def doc_to_target(doc):
    return LETTERS[doc["answer"]]


def process_results(doc, results):
    right, given = doc_to_target(doc), results[0].strip()
    if given[:1].isupper() and given[1:2] == ".":
        given = given[0]
    return {"exact_match": float(given.upper() == right)}

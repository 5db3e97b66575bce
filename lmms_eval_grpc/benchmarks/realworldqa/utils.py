"""RealWorldQA: letters read from free-form answers; other answers compared as text."""

from lmms_eval_grpc.benchmarks._shared.choices import extract_letter
from lmms_eval_grpc.benchmarks._shared.documents import between_prompts, with_own_instruction

INSTRUCTION = "Please answer directly with only the letter of the correct option and nothing else."


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    kwargs, question = lmms_eval_specific_kwargs or {}, doc["question"].strip()
    if kwargs.get("post_prompt"):
        return with_own_instruction(question, INSTRUCTION, kwargs)
    return between_prompts(question, kwargs)  # the data set's own instruction stays


def process_results(doc, results):
    right = doc["answer"].strip()
    if right.upper() in ("A", "B", "C", "D"):
        score = extract_letter(results[0]) == right.upper()
    else:
        score = results[0].lower().strip().rstrip(".") == right.lower()
    return {"exact_match": float(score)}

"""TextVQA: VQA accuracy over ten human answers."""

from lmms_eval_grpc.benchmarks._shared.documents import between_prompts
from lmms_eval_grpc.benchmarks._shared.vqa_text import normalise_answer

AGREEING_PEOPLE = 3
"""So many people with the same answer make it fully right."""


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    text = doc["question"].capitalize()
    if (lmms_eval_specific_kwargs or {}).get("ocr"):
        text += f"\nReference OCR token: {', '.join(doc['ocr_tokens'])}"
    return between_prompts(text, lmms_eval_specific_kwargs)


def process_results(doc, results):
    return {"exact_match": accuracy(results[0], doc["answers"])}


def accuracy(response, answers):
    """For each person, how many of the others gave this answer, of three at most; the mean of that."""
    if not answers:
        return 0.0
    given = normalise_answer(response)
    agrees = [normalise_answer(answer) == given for answer in answers]
    return sum(min(1, (sum(agrees) - own) / AGREEING_PEOPLE) for own in agrees) / len(answers)

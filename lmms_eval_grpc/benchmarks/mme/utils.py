"""MME: answers read as yes or no, and the benchmark's sum of accuracy and paired accuracy per category."""

from collections import defaultdict

from lmms_eval_grpc.benchmarks._shared.documents import with_own_instruction
from lmms_eval_grpc.benchmarks._shared.groups import grouped

INSTRUCTION = " Please answer yes or no."
COGNITION = frozenset({"commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"})
PERCEPTION = frozenset(
    {
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    }
)


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return with_own_instruction(doc["question"].strip(), INSTRUCTION, lmms_eval_specific_kwargs)


def read_answer(text):
    """``yes``, ``no`` or ``other``, by the first four characters."""
    text = _plain(text)
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    start = text[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def process_results(doc, results):
    right, category = _plain(doc["answer"]), doc["category"]
    if right not in ("yes", "no"):
        raise ValueError(f"the answer of an MME document must be yes or no, but is {doc['answer']!r}")
    score = 1.0 if read_answer(results[0]) == right else 0.0
    metric = "mme_perception_score" if category in PERCEPTION else "mme_cognition_score"
    return {metric: {"question_id": doc["question_id"], "category": category, "score": score}}


def total_score(results):
    """Over the categories, the sum of accuracy and of the share of images with both answers right, in per cent.

    An image of which only one question was scored (a limit, an error) is left out.
    """
    categories = defaultdict(list)
    for result in results:
        categories[result["category"]].append(result)
    return sum(_category_score(members) for members in categories.values())


def _category_score(results):
    weighted = images = 0.0
    for answers, _ in grouped(results, lambda result: result["question_id"], lambda result: result["score"]):
        pairs, left_over = divmod(len(answers), 2)  # more than one pair only when a bootstrap draws an image twice
        if left_over:
            continue
        scores = [answer["score"] for answer in answers]
        weighted += pairs * (100 * sum(scores) / len(scores) + 100 * all(scores))
        images += pairs
    return weighted / images if images else 0.0


def _plain(text):
    return text.lower().strip().replace(".", "")

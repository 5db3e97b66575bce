"""MMStar: letters read from free-form answers, and macro means over subcategories."""

from collections import defaultdict

from lmms_eval_grpc.benchmarks._shared.choices import extract_letter
from lmms_eval_grpc.benchmarks._shared.documents import with_own_instruction
from lmms_eval_grpc.benchmarks._shared.groups import mean_score

INSTRUCTION = " Please answer yes or no."


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return with_own_instruction(doc["question"].strip(), INSTRUCTION, lmms_eval_specific_kwargs)


def process_results(doc, results):
    score = 1.0 if extract_letter(results[0]) == doc["answer"].strip().upper() else 0.0
    result = {"question_id": doc["index"], "l2_category": doc["l2_category"], "score": score}
    return {doc["category"]: result, "average": result}


def mean_over_subcategories(results):
    """The mean over subcategories of the accuracy in each."""
    subcategories = defaultdict(list)
    for result in results:
        subcategories[result["l2_category"]].append(result)
    return sum(map(mean_score, subcategories.values())) / len(subcategories)

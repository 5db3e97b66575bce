"""SEED-Bench: four options, and an answer's first character."""

from lmms_eval_grpc.benchmarks._shared.choices import lettered

INSTRUCTION = "Answer with the option's letter from the given choices directly."


def doc_to_visual(doc):
    return [image.convert("RGB") for image in doc["image"]]


def doc_to_text(doc):
    options = lettered(doc[f"choice_{letter}"] for letter in "abcd")
    return f"{doc['question']}\n{options}\n{INSTRUCTION}"


def process_results(doc, results):
    given, right = results[0].strip()[:1], doc["answer"]
    result = {
        "question_id": doc["question_id"],
        "pred": given,
        "answer": right,
        "score": float(given.lower() == right.lower().strip()),
    }
    return {f"seed_{doc['data_type']}": result, "seed_all": result}

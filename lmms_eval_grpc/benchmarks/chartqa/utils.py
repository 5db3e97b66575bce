"""ChartQA: relaxed accuracy."""

TOLERANCE = 0.05


def process_results(doc, results):
    score = 1.0 if is_right(results[0], doc["answer"]) else 0.0
    split = "relaxed_human_split" if doc["type"] == "human_test" else "relaxed_augmented_split"
    return {"relaxed_overall": score, split: score}


def is_right(response, answer):
    """Within 5 % of a number that is not 0; else equal but for case (Methani et al. 2020, Masry et al. 2022)."""
    given, wanted = _number(response), _number(answer)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= TOLERANCE
    return response.lower() == answer.lower()


def _number(text):
    """``text`` as a number, a percentage as a fraction; None for anything else."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None

"""POPE: precision and recall of "yes", where anything but "yes" and "no" is neither."""

METRICS = ("pope_accuracy", "pope_precision", "pope_recall", "pope_f1_score", "pope_yes_ratio")


def process_results(doc, results):
    given, right = results[0].lower().strip(), doc["answer"].lower().strip()
    if right not in ("yes", "no"):
        raise ValueError(f"the answer of a POPE document must be yes or no, but is {doc['answer']!r}")
    result = {
        "question_id": doc["question_id"],
        "score": 1.0 if given == right else 0.0,
        "prediction": given,
        "ground_truth": right,
    }
    return dict.fromkeys(METRICS, result)


def precision(results):
    """The share of "yes" that is right; 0 without any."""
    yes = [result for result in results if result["prediction"] == "yes"]
    return _share(yes, "ground_truth")


def recall(results):
    """Of the objects that are there and were answered with "yes" or "no", the share with "yes"; 0 without any."""
    present = [result for result in results if result["ground_truth"] == "yes"]
    return _share([result for result in present if result["prediction"] in ("yes", "no")], "prediction")


def f1_score(results):
    both = precision(results), recall(results)
    return 2 * both[0] * both[1] / sum(both) if sum(both) else 0.0


def yes_ratio(results):
    """The share of all answers that is "yes"; half of the questions ought to have it."""
    return _share(results, "prediction")


def _share(results, key):
    return sum(result[key] == "yes" for result in results) / len(results) if results else 0.0

"""OCRBench: right is what contains the text that was to be read."""

# Full-width forms of ASCII, and the ideographic space, to their plain forms.
_PLAIN_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: ord(" ")}


def process_results(doc, results):
    given, answers = results[0].strip(), doc["answer"]
    # Formulas are compared as written but for spaces; any other text without regard to case and width.
    comparable = _without_spaces if doc["dataset"] == "HME100k" else _plain
    accepted = [answers] if isinstance(answers, str) else answers
    score = int(any(comparable(answer) in comparable(given) for answer in accepted))
    return {
        "ocrbench_accuracy": {
            "question_type": doc["question_type"],
            "score": score,
            "prediction": given,
            "ground_truth": answers,
        }
    }


def _without_spaces(text):
    return text.strip().replace("\n", " ").replace(" ", "")


def _plain(text):
    return text.translate(_PLAIN_WIDTH).lower().strip().replace("\n", " ")

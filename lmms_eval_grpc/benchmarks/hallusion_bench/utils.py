"""HallusionBench: answers right by rules or by a judge, counted alone, per question over images, and per image."""

from lmms_eval_grpc.benchmarks._shared import judge
from lmms_eval_grpc.benchmarks._shared.groups import mean_score, share_all_correct

JUDGE_PROMPT = (
    "Imagine you are an intelligent teacher. Thoroughly read the question, reference answer and the prediction answer "
    "to ensure a clear understanding of the information provided. Assess the correctness of the predictions. If the "
    "prediction answer does not conflict with the reference answer, please generate “correct”. If the prediction "
    "answer conflict with the reference answer, please generate “incorrect”. If the prediction answer is unclear about "
    'the answer, please generate "unclear". \n\n Question:{}\nReference answer: {}\nPrediction answer:{}\nOutput:'
)
PARSED = ("aAcc_parsed", "qAcc_parsed", "fAcc_parsed")
JUDGED = ("aAcc", "qAcc", "fAcc")


def process_results(doc, results):
    answer = results[0]
    said = "1" if "yes" in answer.lower() else "0"
    scores = dict.fromkeys(PARSED, _result(doc, answer, said == str(doc["gt_answer"])))
    if judge.configured():
        scores.update(dict.fromkeys(JUDGED, _result(doc, answer, _judge(doc, answer))))
    return scores


def share_of_questions(results):
    """The share of questions answered rightly for every image that they are asked about."""
    return share_all_correct(results, _question, _figure)


def share_of_figures(results):
    """The share of images about which every question is answered rightly."""
    with_figure = [result for result in results if not _has_no_figure(result)]
    return share_all_correct(with_figure, _figure, _question)


def judged_answers(results):
    return round(100 * mean_score(results), 4)


def judged_questions(results):
    return round(100 * share_of_questions(results), 4)


def judged_figures(results):
    return round(100 * share_of_figures(results), 4)


def _judge(doc, answer):
    """Whether the judge finds ``answer`` right. Raises judge.JudgeError."""
    prompt = JUDGE_PROMPT.format(doc["question"], doc["gt_answer_details"], answer)
    verdict = judge.ask(prompt, max_tokens=16).lower()
    if "correct" in verdict:
        return "incorrect" not in verdict
    return _has_no_figure(doc)  # without the image, not to know is right


def _result(doc, answer, is_right):
    keys = ("category", "subcategory", "set_id", "figure_id", "question_id")
    place = {key: str(doc[key]) for key in keys}
    return {
        **place,
        "set": "_".join(place[key] for key in keys[:3]),
        "model_prediction": answer,
        "score": float(is_right),
    }


def _question(result):
    return result["set"], result["question_id"]


def _figure(result):
    return result["set"], result["figure_id"]


def _has_no_figure(result):
    return result["category"] == "VS" and str(result["figure_id"]) == "0"

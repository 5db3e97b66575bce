"""Video-MME: where a document's video lies, its prompt, and its answer's letter."""

from lmms_eval_grpc.benchmarks._shared.choices import extract_letter
from lmms_eval_grpc.benchmarks._shared.media import first_existing, media_folder

INSTRUCTION = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)


def doc_to_visual(doc):
    folder = media_folder("videomme") / "data"
    return [first_existing([folder / f"{doc['videoID']}.{suffix}" for suffix in ("mp4", "MP4", "mkv")])]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    kwargs, options = lmms_eval_specific_kwargs or {}, "\n".join(doc["options"])
    if kwargs.get("format") == "qwen3_vl":
        before, after = kwargs.get("pre_prompt", ""), kwargs.get("post_prompt", "")
        return f"{before}{doc['question']}\nOptions:\n{options}\n{after}"
    return f"{INSTRUCTION}\n{doc['question']}\n{options}\n{kwargs.get('post_prompt', 'The best answer is:')}"


def process_results(doc, results):
    letter, right = extract_letter(results[0]), doc["answer"]
    return {
        "videomme_perception_score": {
            "question_id": doc["question_id"],
            "videoID": doc["videoID"],
            "duration": doc["duration"],
            "category": doc["domain"],
            "sub_category": doc["sub_category"],
            "task_category": doc["task_type"],
            "pred_answer": letter,
            "answer": right,
            "score": float(letter.lower() == right.lower()),
        }
    }

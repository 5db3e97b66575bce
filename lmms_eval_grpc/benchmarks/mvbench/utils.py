"""MVBench: where each task's videos lie, its prompt, and how its answers are read."""

import re

from lmms_eval_grpc.benchmarks._shared.choices import LETTERS, lettered
from lmms_eval_grpc.benchmarks._shared.groups import percentage
from lmms_eval_grpc.benchmarks._shared.media import first_existing, media_folder
from lmms_eval_grpc.benchmarks._shared.vqa_text import without_punctuation

FOLDERS = {
    "action_antonym": "ssv2_video_mp4",
    "action_count": "perception/videos",
    "action_localization": "sta/sta_video_segment",
    "action_prediction": "star/Charades_segment",
    "action_sequence": "star/Charades_segment",
    "character_order": "perception/videos",
    "counterfactual_inference": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd_convert",
    "moving_attribute": "clevrer/video_validation",
    "moving_count": "clevrer/video_validation",
    "moving_direction": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_segment",
    "object_shuffle": "perception/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "unexpected_action": "FunQA_test/test",
}

_OPTION = re.compile(r"([A-E])\.\s*(.+)$", re.IGNORECASE)
_LONE_LETTER = re.compile(r"\b[A-E]\b", re.IGNORECASE)
_COMMA_IN_NUMBER = re.compile(r"\d,\d")


def doc_to_visual(doc, lmms_eval_specific_kwargs):
    """The path of the video; for episodic_reasoning of a folder with its frames."""
    root, folder = media_folder("mvbench_video"), FOLDERS[lmms_eval_specific_kwargs["sub_task"]]
    # Newer copies of the data set have some of the videos one folder deeper.
    return [first_existing([root / folder / doc["video"], root / "data0613" / folder / doc["video"]])]


def doc_to_text(doc, lmms_eval_specific_kwargs):
    options = lettered(doc["candidates"], form="({}) {}\n", separator="")
    return f"Question:{doc['question']}\nOption:\n{options}{lmms_eval_specific_kwargs['post_prompt']}"


def process_results(doc, results):
    right = LETTERS[doc["candidates"].index(doc["answer"])]
    return {
        "mvbench_accuracy": {
            "pred_answer": results[0],
            "gt_answer": right,
            "score": int(read_letter(results[0]) == right),
        }
    }


def read_letter(answer):
    """The letter that an answer starts with, as in ``B. text``, or the first that stands alone; empty without one."""
    match = _OPTION.match(answer.strip())
    if match:
        return match[1].upper()
    text = without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip(), _COMMA_IN_NUMBER)
    match = _LONE_LETTER.search(text)
    return match[0].upper() if match else ""


def percentage_of_answered(results):
    """The percentage of right answers among those that are not empty."""
    return percentage([result for result in results if result["pred_answer"] != ""])

"""MMMU: prompts with images between the text, and answers read as a letter or as an open answer."""

import ast
import re

from lmms_eval_grpc.benchmarks._shared.choices import LETTERS, lettered
from lmms_eval_grpc.benchmarks.mmmu import answers

PLACEHOLDER = re.compile(r"<image (\d+)>")


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    kwargs = lmms_eval_specific_kwargs or {}
    if kwargs.get("format") == "qwen3_vl":
        last = kwargs.get("post_prompt" if _has_choices(doc) else "open_ended_prompt", "")
        return f"{kwargs.get('pre_prompt', '')}{doc['question']}\nOptions:\n{lettered(_options(doc))}\n{last}"
    if _has_choices(doc):
        instruction = kwargs.get("multiple_choice_prompt", "")
        return f"{doc['question']}\n{lettered(_options(doc))}\n\n{instruction}"
    return f"{doc['question']}\n\n{kwargs.get('open_ended_prompt', '')}"


def doc_to_visual(doc):
    """The images that the question or its options name, each once, by number."""
    return [_image(doc, number) for number in sorted(set(PLACEHOLDER.findall(doc_to_text(doc))))]


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    """One user turn with each image where the text first names it; later mentions stay in the text."""
    text = doc_to_text(doc, lmms_eval_specific_kwargs)
    if (lmms_eval_specific_kwargs or {}).get("format") == "qwen3_vl":
        images = [{"type": "image", "url": image} for image in doc_to_visual(doc)]
        return [{"role": "user", "content": [*images, _text(text)]}]
    content, start, shown = [], 0, set()
    for mention in PLACEHOLDER.finditer(text):
        if mention[1] in shown:
            continue
        shown.add(mention[1])
        before = text[start : mention.start()].strip()
        if before:
            content.append(_text(before))
        content.append({"type": "image", "url": _image(doc, mention[1])})
        start = mention.end()
    return [{"role": "user", "content": [*content, _text(text[start:].strip())]}]


def process_results(doc, results):
    read = [_read_answer(doc, response) for response in results]
    score = float(any(_is_right(doc, answer) for answer in read))
    subject = re.fullmatch(r"[^_]*_(.+)_\d+", doc["id"])
    if subject is None:
        raise ValueError(f"the id of an MMMU document must be split_Subject_number, but is {doc['id']!r}")
    return {
        "mmmu_acc": {
            "id": doc["id"],
            "subdomain": subject[1],
            "question_type": doc["question_type"],
            "answer": doc["answer"],
            "parsed_pred": read,
            "score": score,
        }
    }


def accuracy(results):
    return round(sum(result["score"] for result in results) / len(results), 5)


def _has_choices(doc):
    return doc["question_type"] == "multiple-choice"


def _options(doc):
    return ast.literal_eval(doc["options"])  # the data set has the list as Python text


def _image(doc, number):
    return doc[f"image_{number}"].convert("RGB")


def _text(text):
    return {"type": "text", "text": text}


def _read_answer(doc, response):
    if _has_choices(doc):
        options = dict(zip(LETTERS, _options(doc), strict=False))
        return answers.read_letter(response, options, guess_by=doc["id"])
    return answers.read_open(response)


def _is_right(doc, answer):
    if _has_choices(doc):
        return answer == doc["answer"]
    return answers.open_is_right(answer, doc["answer"])

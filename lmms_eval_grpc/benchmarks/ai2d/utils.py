"""AI2D: three prompt formats, and a filter for answers such as ``B. leaf``."""

import re

from lmms_eval_grpc.benchmarks._shared.choices import LETTERS, lettered
from lmms_eval_grpc.benchmarks._shared.documents import between_prompts

LEADING_LETTER = re.compile(r"\s*([A-Z])\.")


def doc_to_text(doc, lmms_eval_specific_kwargs):
    question, options, form = doc["question"], doc["options"], lmms_eval_specific_kwargs["prompt_format"]
    if form == "mcq":
        text = f"{question}\n{lettered(options)}"
    elif form == "qa":
        text = question + "\n".join(options)
    elif form == "mcq_xcomposer":
        text = f"{question}\nContext: N/A\n{lettered(options, separator=' ')}"
    else:
        raise ValueError(f"prompt_format must be mcq, qa or mcq_xcomposer, but is {form!r}")
    return between_prompts(text, lmms_eval_specific_kwargs)


def doc_to_target(doc, model_specific_target_kwargs="mcq"):
    number = int(doc["answer"])
    return doc["options"][number] if model_specific_target_kwargs == "qa" else LETTERS[number]


class LeadingLetterFilter:
    """Of the first response the letter that it starts with, as in ``B. leaf``; else the response itself."""

    def apply(self, resps, docs):
        return [self._read(responses[0]) for responses in resps]

    def _read(self, response):
        match = LEADING_LETTER.match(response)
        return match[1] if match else response

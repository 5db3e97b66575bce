"""Document functions of the ``handwritten_digits`` task."""

QUESTION = "What digit is shown?"


def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    kwargs = lmms_eval_specific_kwargs or {}
    return f"{kwargs.get('pre_prompt', '')}{QUESTION}{kwargs.get('post_prompt', '')}"


def doc_to_target(doc):
    return str(doc["label"])

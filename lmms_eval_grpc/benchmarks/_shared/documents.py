"""Document functions in the form that most benchmarks have: one image, and a question between two prompts."""


def one_image(doc):
    return [doc["image"].convert("RGB")]


def question(doc, lmms_eval_specific_kwargs=None):
    return between_prompts(doc["question"], lmms_eval_specific_kwargs)


def stripped_question(doc, lmms_eval_specific_kwargs=None):
    return between_prompts(doc["question"].strip(), lmms_eval_specific_kwargs)


def between_prompts(text, kwargs):
    """``text`` with the ``pre_prompt`` before and the ``post_prompt`` after it, nothing between."""
    kwargs = kwargs or {}
    return f"{kwargs.get('pre_prompt', '')}{text}{kwargs.get('post_prompt', '')}"


def with_own_instruction(text, instruction, kwargs):
    """As :func:`between_prompts`; a prompt given there replaces the question's own ``instruction``."""
    kwargs = kwargs or {}
    if kwargs.get("pre_prompt") or kwargs.get("post_prompt"):
        text = text.replace(instruction, "")
    return between_prompts(text, kwargs)

"""LibriSpeech: word error rate over the whole split, after Whisper's English text normalisation."""

import functools
import re
import unicodedata

from lmms_eval_grpc.benchmarks._shared.documents import between_prompts
from lmms_eval_grpc.benchmarks._shared.edit_distance import edit_distance
from lmms_eval_grpc.benchmarks.librispeech.spelling import AMERICAN_SPELLINGS

INSTRUCTION = "Please recognize the speech and only output the recognized content:"


def doc_to_visual(doc):
    return [doc["audio"]]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return between_prompts(INSTRUCTION, lmms_eval_specific_kwargs)


def process_results(doc, results):
    given, right = results[0], doc["gt"]
    reference = words(right)
    return {
        "wer": {
            "gt": right,
            "pred": given,
            "source": doc["source"],
            "task": doc["task"],
            "errors": edit_distance(reference, words(given)),
            "words": len(reference),
        }
    }


def word_error_rate(results):
    """Errors per hundred words of the references, over all of them together."""
    total = sum(result["words"] for result in results)
    return 100 * sum(result["errors"] for result in results) / total if total else 0.0


def words(text):
    """The words of ``text`` that count: normalised, in lower case, those of punctuation alone left out."""
    text = re.sub(r"<\|.*?\|>", " ", text)  # markers such as <|en|>
    text = re.sub(r" ?([!,.?;:])", r"\1", re.sub(r"\s+", " ", text)).lstrip(" ")
    english, basic = _normalisers()
    return [word.lower() for word in basic(english(text)).split() if not _is_punctuation(word)]


def _is_punctuation(word):
    return all(unicodedata.category(sign).startswith("P") for sign in word)


@functools.cache
def _normalisers():
    # Imported late: transformers is there wherever a model runs, but listing tasks must not need it.
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer(AMERICAN_SPELLINGS), BasicTextNormalizer()

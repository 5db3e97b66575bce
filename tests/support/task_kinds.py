"""Tasks of every output type over the same few documents, for tests of how an evaluation is run."""

from __future__ import annotations

from pathlib import Path

from tests.support.task_files import write_task, write_yaml

DOCUMENTS = [
    {"question": f"q{number}", "answer": "ABCD"[number % 4], "right": number % 3, "rounds": 1 + number % 3}
    for number in range(30)
]

KINDS = ("generation", "choice", "likelihood", "rounds", "agent", "examples")
GROUP = "all_kinds"

_GENERATION = """
repeats: 2
filter_list:
  - {name: first, filter: [{function: take_first}]}
  - {name: voted, filter: [{function: majority_vote}, {function: take_first}]}
  - {name: vowel, filter: [{function: regex, regex_pattern: "([AE])", fallback: D}, {function: take_first}]}
process_results: !function utils.score_text
metric_list:
  - {metric: exact, aggregation: mean, higher_is_better: true}
  - {metric: balance, aggregation: !function utils.balance, higher_is_better: true}
"""
_CHOICE = """
output_type: multiple_choice
doc_to_target: right
doc_to_choice: [red, green, blue]
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
_LIKELIHOOD = """
output_type: loglikelihood
metric_list: [{metric: perplexity}, {metric: acc}]
"""
_ROUNDS = """
output_type: generate_until_multi_round
doc_to_text: !function utils.next_round
process_results: !function utils.score_rounds
metric_list: [{metric: exact, aggregation: mean, higher_is_better: true}]
"""
_AGENT = """
output_type: generate_until_agentic
doc_to_text: !function utils.next_step
process_results: !function utils.score_agent
metric_list: [{metric: exact, aggregation: mean, higher_is_better: true}]
"""
_EXAMPLES = """
num_fewshot: 2
description: "Answer {{question}}."
metric_list: [{metric: exact_match}]
"""
_GROUP_FILE = """
group: all_kinds
task:
  - generation
  - choice
  - group: asked_in_rounds
    task: [rounds, agent]
    aggregate_metric_list: [{metric: exact, filter_list: none}]
  - likelihood
  - examples
aggregate_metric_list:
  - {metric: exact, filter_list: [first, none], weight_by_size: true}
  - {metric: acc, filter_list: none}
"""
_UTILS = """
def score_text(doc, results):
    right = float(results[0] == doc["answer"])
    return {"exact": right, "balance": (doc["answer"], right)}

def balance(items):
    by_answer = {}
    for answer, right in items:
        by_answer.setdefault(answer, []).append(right)
    return min(sum(scores) / len(scores) for scores in by_answer.values())

def next_round(doc, lmms_eval_specific_kwargs=None, round_idx=None, previous_output=None, previous_round_info=None):
    if round_idx is None:
        return doc["question"]
    done = round_idx >= doc["rounds"]
    return None, f"{doc['question']} {previous_output[-1]}", done, previous_output, previous_round_info

def score_rounds(doc, results): return {"exact": results[0].count(doc["answer"])}

def next_step(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None, previous_round_info=None):
    if round_idx is None:
        return f"{doc['question']} begins"
    seen = (previous_round_info or "") + previous_output[-1]
    done = round_idx >= doc["rounds"]
    return None, f"{doc['question']} after {seen}", done, [seen], seen

def score_agent(doc, results): return {"exact": float(doc["answer"] in results[0])}
"""


def write_all(folder: Path) -> None:
    """The tasks :data:`KINDS` and the group :data:`GROUP` of them, in ``folder``."""
    keys = dict(zip(KINDS, (_GENERATION, _CHOICE, _LIKELIHOOD, _ROUNDS, _AGENT, _EXAMPLES), strict=True))
    for name, text in keys.items():
        write_task(folder, text, name=name, documents=DOCUMENTS, utils=_UTILS)
    write_yaml(folder, "group.yaml", _GROUP_FILE)

"""Accuracy on hidden problems: the evaluator draws each answer, token by token, and compares it with the right one.

Trusted: nothing of the experiment is imported here.  The unpatched baseline's `model.py` answers, with the weights that
the experiment left (`scorer_code: baseline`): code that calculates instead of a trained policy is never asked.
"""

import json

from ideator_rl.evaluation import graded

ALPHABET = "\n0123456789+-*="
"""As in baseline/model.py."""
MAX_TOKENS = 5
"""One more than the longest answer, `-999` or `8991`, has: what does not end in time is never right."""


def evaluate(run) -> float:
    """Share of the hidden problems whose likeliest answer is right to the last character, and ends."""
    lines = (run.private / f"{run.split}.jsonl").read_text().splitlines()
    problems = [json.loads(line) for line in lines]
    prompts = [[ALPHABET.index(character) for character in problem["prompt"]] for problem in problems]

    def grade(number, answer):
        return float("".join(ALPHABET[token] for token in answer) == problems[number]["answer"])

    return graded(run, prompts, grade, max_tokens=MAX_TOKENS, stop=ALPHABET.index("\n"), batch=500)

"""The reward of an answer: 1 where its `<answer>` holds what the problem's answer means, else 0.

`math_verify` compares values, so that 1/2, 0.5 and \\frac12 are equal.  The same settings read both sides.
"""

from functools import lru_cache

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

EXPRESSIONS = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
MAX_CHARACTERS = 512  # of an answer: longer ones are wrong, and slow to read
SECONDS = 3  # for reading an answer, and for comparing it


def answer_of(text, thought):
    """What stands between the tags; None where the form is not `… </think> <answer> … </answer>`.

    Args:
        thought: whether the prompt opened a thought; if not, the answer's tag comes first.
    """
    body, closed, _ = text.partition("</answer>")  # the token that closes the tag may hold more than the tag
    before, opened, answer = body.rpartition("<answer>")
    before = before.strip()
    form = before.count("</think>") == 1 and before.endswith("</think>") if thought else not before
    if not (closed and opened and form) or any(tag in before + answer for tag in ("<answer>", "<think>")):
        return None
    return None if "</think>" in answer else answer.strip()


def reward(problem, text):
    """What the text of an answer earns."""
    answer = answer_of(text, problem["thought"])
    if answer is None or not answer or len(answer) > MAX_CHARACTERS:
        return 0.0
    if answer == problem["answer"].strip():
        return 1.0
    try:
        return float(verify(meaning(problem["answer"]), expression(answer), timeout_seconds=SECONDS))
    except Exception:  # an answer that cannot be read is wrong
        return 0.0


@lru_cache(maxsize=20_000)
def meaning(gold):
    return expression(gold)


def expression(text):
    # As a whole: without the box, a part of a longer text could be taken for the answer.
    return parse(f"\\boxed{{{text}}}", extraction_config=EXPRESSIONS, parsing_timeout=SECONDS)

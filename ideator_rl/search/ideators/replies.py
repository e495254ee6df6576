"""Splits one reply of a chat model into completions.

Guarantees: each completion holds one complete idea with the thought before it, or none: an idea without an end, or a
reply without ideas, is one completion, which counts as malformed.  Text inside a reasoning model's thoughts is never
taken for an idea.
"""

from __future__ import annotations

from ideator_rl.ideas import EXPERIMENT, spans_of_ideas, unmarked
from ideator_rl.implementers.coder_answer import without_thoughts


def ideas_of_reply(text: str, count: int) -> list[str]:
    """At most `count` completions; further ideas are dropped.

    A reasoning model's thoughts stay with a single idea (`count` 1); with several ideas they are left out.
    """
    # Ideas are looked for outside the thoughts, where a model often drafts some.
    reply = without_thoughts(text)
    completions = _split(reply)[:count]
    if not completions:
        return [unmarked(text) if text != reply else text]
    if count == 1:
        completions[0] = unmarked(text[: len(text) - len(reply)]) + completions[0]
    return completions


def _split(text: str) -> list[str]:
    completions, last_end = [], 0
    for start, end in spans_of_ideas(text):
        before = text[last_end:start]
        if EXPERIMENT in before:  # an idea without an end
            completions.append(before.strip())
            before = ""
        completions.append((before + text[start:end]).strip())
        last_end = end
    # An idea that the reply's end cut off.
    if EXPERIMENT in (rest := text[last_end:]):
        completions.append(rest.strip())
    return completions

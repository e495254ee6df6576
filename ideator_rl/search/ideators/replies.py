"""Splits one reply of a chat model into completions.

Guarantees: each completion holds one complete idea with the thought before it, or none: an idea without an end, or a
reply without ideas, is one completion, which counts as malformed.  Text inside a reasoning model's thoughts is never
taken for an idea.
"""

from __future__ import annotations

from ideator_rl.ideas import EXPERIMENT, spans_of_ideas, unmarked
from ideator_rl.llm import Reply
from ideator_rl.text.thoughts import split_thoughts, thoughts_from_field


def ideas_of_reply(reply: Reply, count: int) -> list[str]:
    """At most `count` completions; further ideas are dropped.

    A reasoning model's thoughts stay with a single idea (`count` 1); with several ideas they are left out.
    """
    thoughts = split_thoughts(reply.text)
    thought = thoughts.thought
    if reply.reasoning:
        # In one text again, as the model wrote it: readers of completions know thoughts by their marks only.
        is_all = not reply.text.strip()
        thought = thoughts_from_field(reply.reasoning, reply.reasoning_field, is_all) + thought
    # Ideas are looked for outside the thoughts, where a model often drafts some.
    completions = _split(thoughts.answer)[:count]
    if not completions:
        return [unmarked(thought) + thoughts.answer]
    if count == 1:
        completions[0] = unmarked(thought) + completions[0]
    return completions


def _split(text: str) -> list[str]:
    completions, last_end = [], 0
    for start, end in spans_of_ideas(text):
        before = text[last_end:start]
        # An idea without an end counts as malformed; a complete one that is no answer is a draft, and left out.
        if EXPERIMENT in before:
            completions += [] if spans_of_ideas(before) else [before.strip()]
            before = ""
        completions.append((before + text[start:end]).strip())
        last_end = end
    # An idea that the reply's end cut off.
    if EXPERIMENT in (rest := text[last_end:]):
        completions.append(rest.strip())
    return completions

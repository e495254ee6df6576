"""The ideas in one answer of a chat model.

Guarantees: each text holds one whole idea with the words before it, its thought, or none: an idea that was begun and
not ended, or an answer without any, is one text, which is malformed and counted as such.  Nothing that stands in a
reasoning model's thoughts is taken for an idea.
"""

from __future__ import annotations

from ideator_rl.ideas import EXPERIMENT, spans_of_ideas, unmarked
from ideator_rl.implementers.coder_answer import without_thoughts


def ideas_of_reply(text: str, count: int) -> list[str]:
    """At most `count` completions; ideas beyond that were not asked for and are dropped.

    A reasoning model's thoughts stay with the one idea that was asked for; of several they are nobody's, and are left
    out.
    """
    said = without_thoughts(text)
    pieces = _pieces(said)[:count]
    if not pieces:
        return [unmarked(text) if text != said else text]
    if count == 1:
        pieces[0] = unmarked(text[: len(text) - len(said)]) + pieces[0]
    return pieces


def _pieces(text: str) -> list[str]:
    pieces, place = [], 0
    for start, end in spans_of_ideas(text):
        before = text[place:start]
        if EXPERIMENT in before:  # one that was begun and never ended
            pieces.append(before.strip())
            before = ""
        pieces.append((before + text[start:end]).strip())
        place = end
    if EXPERIMENT in (rest := text[place:]):
        pieces.append(rest.strip())
    return pieces

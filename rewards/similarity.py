"""The similarity penalty: the third of three remedies that Si et al. (arXiv 2601.14525) tried; it did not help there.

    − mean over the ideas y of the step before of |x ∩ y| / |x ∪ y|          x, y sets of words; from −1 to 0

The words are those of both sections, in lower case, without the thought.  "The step before" is the last one that
proposed any idea; before there is one the penalty is 0.  A step has the same proposals after a kill and a resume.

A text without an idea has −1, as a copy has: losing the form is no way out.  Jaccard is fooled by meaningless words
that are added or replace others; `rewards.novelty` is harder to fool.

Options (columns, or `reward_options`): `similarity_steps`, 1, how many steps to compare with; `similarity_to`, `mean`
or `nearest` (the most similar one).  Which of the two the paper took is not known here: of its RL nothing is released.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Collection, Sequence
from functools import lru_cache

from ideator_rl.ideas import MalformedIdea, parse_idea

from .support.decorator import Call
from .support.options import Option
from .support.past import Past, pasts_of
from .support.shaping import Worth, shaping

OPTIONS = {
    "similarity_steps": Option(1, least=1),
    "similarity_to": Option("mean", among=("mean", "nearest")),
}
_WORD = re.compile(r"\w+")
Words = Collection[str]
"""Distinct words."""


@shaping(OPTIONS)
def similarity_penalty(call: Call) -> Awaitable[Worth]:
    """Minus the token Jaccard of every idea to those of the step before, from −1 to 0; None where its experiment is
    lost.

    Raises:
        IdeatorError: an option cannot be what it is.
    """
    pasts = pasts_of(call)
    return asyncio.to_thread(lambda: Worth(_penalties(call, pasts)))


def _penalties(call: Call, pasts: list[Past]) -> list[float]:
    penalties = [-1.0] * len(call.texts)
    for past in pasts:
        last_steps = sorted({step for step, _ in past.proposed})[-call.options["similarity_steps"] :]
        past_words = [_words(text) for step, text in past.proposed if step in last_steps]
        words_by_row = {row: word_set for row in past.rows if (word_set := _words(call.texts[row]))}
        for row, values in zip(words_by_row, jaccard([*words_by_row.values()], past_words), strict=True):
            nearest = call.options["similarity_to"] == "nearest"
            penalties[row] = -(max(values, default=0.0) if nearest else sum(values) / max(1, len(values)))
    if penalties:
        call.log("similarity/mean", -sum(penalties) / len(penalties))
    return penalties


def jaccard(rows: Sequence[Words], columns: Sequence[Words]) -> list[list[float]]:
    """|x ∩ y| / |x ∪ y| of every row x with every column y, [len(rows), len(columns)]; 0 for two empty sets.

    Sets are held as bits of integers: 256 against 10,000 take about a second.
    """
    index_of_word: dict[str, int] = {}

    def as_bits(word_set: Words) -> int:
        return sum(1 << index_of_word.setdefault(word, len(index_of_word)) for word in word_set)

    row_bits, column_bits = [*map(as_bits, rows)], [*map(as_bits, columns)]
    column_sizes = [bits.bit_count() for bits in column_bits]
    table = []
    for bits in row_bits:
        size = bits.bit_count()
        shared = [(bits & column).bit_count() for column in column_bits]
        table.append([n / max(1, size + total - n) for n, total in zip(shared, column_sizes, strict=True)])
    return table


@lru_cache(maxsize=65536)
def _words(text: str) -> frozenset[str]:
    """The words of an idea; empty for a text without one."""
    try:
        idea = parse_idea(text)
    except MalformedIdea:
        return frozenset()
    return frozenset(_WORD.findall(f"{idea.experiment} {idea.changes}".casefold()))

"""The similarity penalty: the third of three remedies that Si et al. (arXiv 2601.14525) tried; it did not help there.

    − mean over the ideas y of the step before of |x ∩ y| / |x ∪ y|          x, y sets of words; from −1 to 0

The words are those of both sections, in lower case, without the thought.  "The step before" is the last one that
proposed any idea; before there is one the penalty is 0.  What a step proposed is the same after a kill and a resume.

A text without an idea has −1, as a copy has: to have no form is no way out.  Jaccard is fooled by words that mean
nothing, added or put in others' places; `rewards.novelty` is harder to fool.

Options (columns, or `reward_options`): `similarity_steps`, 1, steps that are looked back; `similarity_to`, `mean` or
`nearest` (the most similar one).  Which of the two the paper took is not known here: of its RL nothing is released.
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
"""Each once."""


@shaping(OPTIONS)
def similarity_penalty(call: Call) -> Awaitable[Worth]:
    """Minus the token Jaccard of every idea to those of the step before, from −1 to 0; None where its experiment is
    lost.

    Raises:
        IdeatorError: an option cannot be what it is.
    """
    found = pasts_of(call)
    return asyncio.to_thread(lambda: Worth(_penalties(call, found)))


def _penalties(call: Call, found: list[Past]) -> list[float]:
    penalties = [-1.0] * len(call.texts)
    for part in found:
        last = sorted({step for step, _ in part.proposed})[-call.options["similarity_steps"] :]
        past = [_words(text) for step, text in part.proposed if step in last]
        own = {row: words for row in part.rows if (words := _words(call.texts[row]))}
        for row, values in zip(own, jaccard([*own.values()], past), strict=True):
            nearest = call.options["similarity_to"] == "nearest"
            penalties[row] = -(max(values, default=0.0) if nearest else sum(values) / max(1, len(values)))
    if penalties:
        call.log("similarity/mean", -sum(penalties) / len(penalties))
    return penalties


def jaccard(sets: Sequence[Words], others: Sequence[Words]) -> list[list[float]]:
    """|x ∩ y| / |x ∪ y| of every set with every other one; 0 for two empty sets.

    Sets are kept as bits of whole numbers: 256 against 10,000 take about a second.
    """
    places: dict[str, int] = {}
    bits = [sum(1 << places.setdefault(word, len(places)) for word in each) for each in (*sets, *others)]
    sizes = [each.bit_count() for each in bits]
    out = []
    for one, size in zip(bits[: len(sets)], sizes, strict=False):
        shared = [(one & other).bit_count() for other in bits[len(sets) :]]
        out.append([both / max(1, size + n - both) for both, n in zip(shared, sizes[len(sets) :], strict=True)])
    return out


@lru_cache(maxsize=65536)
def _words(text: str) -> frozenset[str]:
    """The words of an idea; empty for a text without one."""
    try:
        idea = parse_idea(text)
    except MalformedIdea:
        return frozenset()
    return frozenset(_WORD.findall(f"{idea.experiment} {idea.changes}".casefold()))

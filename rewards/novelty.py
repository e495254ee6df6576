"""The novelty reward: how far an idea is from the others of its batch and from all that the run proposed before.

    ρ(x) = (1/k) Σ_{i=1..k} d(x, μ_i)          d = 1 − cosine, from 0 to 1

the measure of novelty search (Lehman & Stanley, Evolutionary Computation 19(2), 2011), on embeddings.  μ_1 … μ_k are
the nearest among the other ideas of the batch and the proposals of earlier steps, each as often as it was proposed: a
crowded place is one that was often proposed.  Of fewer than k the mean is over those there are; with nothing to
compare, an idea is worth 1.  Only the `[Experiment]` section is embedded (`diversity.embedding` says why); but two
ideas with one `[Code Changes]` section are in one place, whatever else they say.  No idea, or no words: 0.

Words are easily new.  So where experiments run beside it, an idea must meet a *minimal criterion* (Lehman & Stanley,
GECCO 2010): its experiment succeeded, and its codebase was not known when the batch was first proposed.  Otherwise
nonsense, or old changes under new words, would be the most novel of all.  `novelty_of: proposed` pays every idea.  What
is left to fool it: new words for a codebase that is new by a digit, and several ways within a batch to write one that
is new.

The distance is a function of texts; what earlier steps proposed and what was known are the same after a kill and a
resume (`support.past`).

Options (columns, or `reward_options`): `novelty_k`, 5; `novelty_of`, `succeeded` or `proposed`; `novelty_embedder`,
`auto`: which one that is differs between machines, so name one in a run that moves.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ideator_rl.diversity.embedding import Embedder, description, get_embedder
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.reward_buffer import RewardBuffer

from .support.decorator import Call
from .support.options import Option
from .support.past import Past, pasts_of
from .support.shaping import Worth, shaping


@dataclass(frozen=True)
class EmbedderOption(Option):
    """The name of an embedder that can be had here."""

    def check(self, name: str, value: Any) -> None:
        super().check(name, value)
        get_embedder(value)


OPTIONS = {
    "novelty_k": Option(5, least=1),
    "novelty_of": Option("succeeded", among=("succeeded", "proposed")),
    "novelty_embedder": EmbedderOption("auto"),
}
DIGITS = 6
"""Of what a row is worth: an embedder's last bits may differ with what else it embeds at once."""


@shaping(OPTIONS)
def novelty_reward(call: Call) -> Awaitable[Worth]:
    """The mean distance of every idea to the nearest ones, from 0 to 1; None where its experiment is lost.

    Raises:
        IdeatorError: an option cannot be what it is, or its embedder cannot be had.
    """
    found = pasts_of(call)

    async def worth() -> Worth:
        words = await asyncio.to_thread(_words, call, found)
        if words:
            call.log("novelty/mean", sum(words) / len(words))
        if call.options["novelty_of"] == "proposed":
            return Worth(words)
        part_of = {row: part for part in found for row in part.rows}

        def judged(row: int, record: Experiment) -> float:
            return words[row] if record.status == SUCCEEDED and not part_of[row].knew(record) else 0.0

        return Worth(words, judged)

    return worth()


def novelty(own: np.ndarray, past: np.ndarray, k: int, changes: np.ndarray | None = None) -> np.ndarray:
    """ρ of every row of `own` among its other rows and `past`.

    Args:
        own: [N, D], rows of length 1.
        past: [M, D], the same.
        changes: [N + M] numbers, of which equal ones mean equal changes; None for changes that all differ.

    Returns:
        [N], from 0 to 1; 1 where there is nothing to compare with.
    """
    count = len(own) + len(past) - 1
    if count < 1:
        return np.ones(len(own))
    similar = own @ np.concatenate([own, past]).T
    if changes is not None:
        similar[changes[: len(own), None] == changes] = 1
    np.fill_diagonal(similar, -np.inf)  # not to itself
    k = min(k, count)
    nearest = np.partition(similar, -k, axis=1)[:, -k:]
    return 1 - np.clip(nearest, 0, 1).mean(axis=1)


def _words(call: Call, found: list[Past]) -> list[float]:
    """What the words of every row are worth."""
    values = [0.0] * len(call.texts)
    embedder = get_embedder(call.options["novelty_embedder"])
    for part in found:
        vectors = _vectors(embedder, part.buffer)
        ideas = [
            _idea(text) for text in (*(call.texts[row] for row in part.rows), *(text for _, text in part.proposed))
        ]
        rows = vectors.of([said for said, _ in ideas])
        worded: np.ndarray = np.asarray(rows.any(axis=1))
        own = len(part.rows)
        numbers: dict[str, int] = {}
        changes = np.array([numbers.setdefault(done, len(numbers)) for _, done in ideas])
        worth = novelty(rows[:own][worded[:own]], rows[own:][worded[own:]], call.options["novelty_k"], changes[worded])
        for at, value in zip(np.flatnonzero(worded[:own]), worth, strict=True):
            values[part.rows[at]] = round(float(value), DIGITS)
    return values


@lru_cache(maxsize=65536)
def _idea(text: str) -> tuple[str, str]:
    """What is embedded of a completion or an idea, and its changes; nothing of a text without an idea."""
    try:
        idea = parse_idea(text)
    except MalformedIdea:
        return "", ""
    return description(text), " ".join(idea.changes.casefold().split())


class Vectors:
    """Embeddings of the texts of a run, each made once."""

    def __init__(self, embedder: Embedder):
        self._embedder, self._lock = embedder, threading.Lock()
        self._places: dict[str, int] = {}
        self._rows = np.zeros((0, 0), np.float32)

    def of(self, texts: list[str]) -> np.ndarray:
        """[N, D]; a row of zeros for a text without words."""
        with self._lock:
            new = [text for text in dict.fromkeys(texts) if text not in self._places]
            if new or not self._rows.shape[1]:
                self._add(new)
            return self._rows[[self._places[text] for text in texts]]

    def _add(self, texts: list[str]) -> None:
        made = self._embedder.embed(texts)
        count = len(self._places)
        if count + len(texts) > len(self._rows) or not count:  # twice the room, so that rows are copied seldom
            grown = np.zeros((2 * (count + len(texts)), made.shape[1]), np.float32)
            if count:
                grown[:count] = self._rows[:count]
            self._rows = grown
        self._rows[count : count + len(texts)] = made
        self._places.update({text: count + at for at, text in enumerate(texts)})


_known: WeakKeyDictionary[RewardBuffer, dict[str, Vectors]] = WeakKeyDictionary()
_known_lock = threading.Lock()


def _vectors(embedder: Embedder, run: RewardBuffer | None) -> Vectors:
    """One a run and embedder, kept as long as the run is open."""
    if run is None:
        return Vectors(embedder)
    with _known_lock:
        return _known.setdefault(run, {}).setdefault(embedder.name, Vectors(embedder))

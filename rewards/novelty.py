"""The novelty reward: how far an idea is from the others of its batch and from all earlier proposals of the run.

    ρ(x) = (1/k) Σ_{i=1..k} d(x, μ_i)          d = 1 − cosine, from 0 to 1

The measure of novelty search (Lehman & Stanley, Evolutionary Computation 19(2), 2011), on embeddings.  μ_1 … μ_k are
the nearest among the other ideas of the batch and the proposals of earlier steps, each as often as it was proposed: a
crowded place is one that was often proposed.  With fewer than k, the mean is over those; with none, an idea is worth 1.
Only the `[Experiment]` section is embedded (see `diversity.embedding`); but two ideas with equal `[Code Changes]`
sections have distance 0, whatever their other words.  A text without an idea, or without words, is worth 0.

New words are cheap.  So where another function runs the experiments, an idea must meet a *minimal criterion* (Lehman &
Stanley, GECCO 2010): its experiment succeeded, and its codebase was not known when the batch was first proposed.
Otherwise nonsense, or old changes under new words, would be the most novel of all.  `novelty_of: proposed` pays every
idea.  Two ways to exploit it remain: new words for a codebase that is new by a digit, and several ways within a batch
to write one new codebase.

The distance is a function of texts.  Earlier proposals and known codebases are the same after a kill and a resume
(`support.past`).

Options (columns, or `reward_options`): `novelty_k`, 5; `novelty_of`, `succeeded` or `proposed`; `novelty_embedder`,
`auto`: its choice differs between machines, so name one in a run that moves.
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
"""The rewards are rounded: an embedder's last bits may depend on the other texts of a call."""


@shaping(OPTIONS)
def novelty_reward(call: Call) -> Awaitable[Worth]:
    """The mean distance of every idea to the nearest ones, from 0 to 1; None where its experiment is lost.

    Raises:
        IdeatorError: an option cannot be what it is, or its embedder cannot be had.
    """
    pasts = pasts_of(call)

    async def worth() -> Worth:
        by_text = await asyncio.to_thread(_novelty_of_texts, call, pasts)
        if by_text:
            call.log("novelty/mean", sum(by_text) / len(by_text))
        if call.options["novelty_of"] == "proposed":
            return Worth(by_text)
        past_of_row = {row: past for past in pasts for row in past.rows}

        def by_outcome(row: int, record: Experiment) -> float:
            return by_text[row] if record.status == SUCCEEDED and not past_of_row[row].knew(record) else 0.0

        return Worth(by_text, by_outcome)

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


def _novelty_of_texts(call: Call, pasts: list[Past]) -> list[float]:
    """[N], computed from the texts alone."""
    # Each run has its own past: rows of two runs in one batch are not compared.
    values = [0.0] * len(call.texts)
    embedder = get_embedder(call.options["novelty_embedder"])
    for past in pasts:
        texts = [*(call.texts[row] for row in past.rows), *(text for _, text in past.proposed)]
        ideas = [_idea(text) for text in texts]
        rows = _vectors(embedder, past.buffer).of([experiment for experiment, _ in ideas])
        # A text without words has no vector: it is compared with nothing, and stays at 0.
        has_words: np.ndarray = np.asarray(rows.any(axis=1))
        own = len(past.rows)
        numbers: dict[str, int] = {}
        changes = np.array([numbers.setdefault(changes, len(numbers)) for _, changes in ideas])
        new, old = rows[:own][has_words[:own]], rows[own:][has_words[own:]]
        distances = novelty(new, old, call.options["novelty_k"], changes[has_words])
        for index, value in zip(np.flatnonzero(has_words[:own]), distances, strict=True):
            values[past.rows[index]] = round(float(value), DIGITS)
    return values


@lru_cache(maxsize=65536)
def _idea(text: str) -> tuple[str, str]:
    """The text to embed and the code changes of a completion or an idea; both empty without an idea."""
    try:
        idea = parse_idea(text)
    except MalformedIdea:
        return "", ""
    return description(text), " ".join(idea.changes.casefold().split())


class Vectors:
    """Embeddings of the texts of a run, each made once."""

    def __init__(self, embedder: Embedder):
        self._embedder, self._lock = embedder, threading.Lock()
        self._index: dict[str, int] = {}
        self._rows = np.zeros((0, 0), np.float32)

    def of(self, texts: list[str]) -> np.ndarray:
        """[N, D]; a row of zeros for a text without words."""
        with self._lock:
            new = [text for text in dict.fromkeys(texts) if text not in self._index]
            if new or not self._rows.shape[1]:
                self._add(new)
            return self._rows[[self._index[text] for text in texts]]

    def _add(self, texts: list[str]) -> None:
        vectors = self._embedder.embed(texts)
        count = len(self._index)
        if count + len(texts) > len(self._rows) or not count:  # twice the room, so that rows are copied seldom
            grown = np.zeros((2 * (count + len(texts)), vectors.shape[1]), np.float32)
            if count:
                grown[:count] = self._rows[:count]
            self._rows = grown
        self._rows[count : count + len(texts)] = vectors
        self._index.update({text: count + at for at, text in enumerate(texts)})


_vectors_by_run: WeakKeyDictionary[RewardBuffer, dict[str, Vectors]] = WeakKeyDictionary()
_vectors_lock = threading.Lock()


def _vectors(embedder: Embedder, run: RewardBuffer | None) -> Vectors:
    """One for each run and embedder, kept while the run is open: past ideas are embedded once."""
    if run is None:
        return Vectors(embedder)
    with _vectors_lock:
        return _vectors_by_run.setdefault(run, {}).setdefault(embedder.name, Vectors(embedder))

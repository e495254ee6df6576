"""What is trained when a batch closes: quorum, deadline, parked groups, masked rows.  Pure: no clock, no torch.

A batch closes when a fraction of its rows has an outcome (the quorum) or its deadline has passed, but never while no
group of it, or parked before it, could be trained.  A group is ready when at least that fraction of *its* rows has an
outcome and two or more have a reward; its missing rows are masked.  A group that is not ready is parked: it is trained
later, in the place of another that is missing, once it is ready, or with what has come at its last chance, `max_age`
batches later.  What is trained nowhere still went to buffer, archive and report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Outcome:
    """What is known of one completion."""

    rewards: list[float | None]
    """One a reward function; all None when nothing is to be learned from it."""
    status: str = ""
    cell: str = ""
    measured: float | None = None
    """The reward of its experiment alone, without what other functions added."""

    @property
    def scored(self) -> bool:
        return any(reward is not None for reward in self.rewards)


Known = Sequence[Outcome | None]
"""Of every row of a batch; None while its outcome is awaited."""


@dataclass
class Seat:
    """A group that is trained in a batch: from which batch it is, and in which group's place it stands."""

    slot: int
    batch: int
    group: int
    outcomes: list[Outcome | None]

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Seat:
        outcomes = [None if each is None else Outcome(**each) for each in raw["outcomes"]]
        return cls(raw["slot"], raw["batch"], raw["group"], outcomes)


@dataclass
class Closing:
    """How a batch was closed; with it the same update can be computed again."""

    index: int
    seats: list[Seat]
    parked: list[tuple[int, int]]
    """(batch, group) that wait for a later batch."""
    dropped: list[tuple[int, int]]
    """(batch, group) that will never be trained; their outcomes are in the archive all the same."""
    waited: float = 0.0
    """Seconds from the trainer's being ready for this batch until it closed."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Prompt and completion of ideas to imitate beside this batch."""
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """What reward functions had logged by then."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Closing:
        parked, dropped = ([(batch, group) for batch, group in raw[name]] for name in ("parked", "dropped"))
        seats = [Seat.of(seat) for seat in raw["seats"]]
        return cls(raw["index"], seats, parked, dropped, raw["waited"], raw["examples"], raw["metrics"])


@dataclass(frozen=True)
class Layout:
    """Where the rows of a batch lie: P groups of G in order, cut into equal slices, one a rank."""

    groups: int
    group_size: int
    rows_per_rank: int

    def rows(self, group: int) -> range:
        return range(group * self.group_size, (group + 1) * self.group_size)

    def local(self, group: int, rank: int) -> list[int]:
        """The rows of a group in a rank's own slice."""
        start = rank * self.rows_per_rank
        return [row - start for row in self.rows(group) if start <= row < start + self.rows_per_rank]

    def span(self, group: int) -> tuple[tuple[int, int], ...]:
        """How many of a group's rows lie at which rank: groups of equal span can change places."""
        ranks = [row // self.rows_per_rank for row in self.rows(group)]
        return tuple((rank, ranks.count(rank)) for rank in sorted(set(ranks)))


@dataclass(frozen=True)
class Rule:
    quorum: float = 1.0
    """Fraction of a batch's rows, and of a group's, that must have an outcome."""
    max_age: int = 4
    """Batches that a group may wait for before its last chance."""

    def enough(self, known: Known) -> bool:
        """Whether a batch has its quorum."""
        return sum(each is not None for each in known) >= math.ceil(self.quorum * len(known) - 1e-9)

    def close(
        self, index: int, layout: Layout, known: dict[int, Known], parked: list[tuple[int, int]], waited: float = 0.0
    ) -> Closing:
        """Seat what is ready now.

        Args:
            known: outcomes by batch, of this one and of every batch with parked groups.
            parked: (batch, group) from before, oldest first.
        """
        own = {group: [known[index][row] for row in layout.rows(group)] for group in range(layout.groups)}
        seats = [Seat(g, index, g, rows) for g, rows in own.items() if self._ready(rows)]
        free = [g for g in own if not self._ready(own[g])]
        waiting = [(index, g) for g in free if not _hopeless(own[g])]
        dropped = [(index, g) for g in free if _hopeless(own[g])]
        still: list[tuple[int, int]] = []
        for batch, group in parked:
            rows = [known[batch][row] for row in layout.rows(group)]
            last = index - batch >= self.max_age
            slot = next((g for g in free if layout.span(g) == layout.span(group)), None)
            if slot is not None and (self._ready(rows) or (last and _trainable(rows))):
                seats.append(Seat(slot, batch, group, rows))
                free.remove(slot)
            elif last or _hopeless(rows):
                dropped.append((batch, group))
            else:
                still.append((batch, group))
        return Closing(index, seats, still + waiting, dropped, waited)

    def _ready(self, rows: Known) -> bool:
        return self.enough(rows) and _trainable(rows)


def _trainable(rows: Known) -> bool:
    """Whether there is something to compare: two rewards or more."""
    return sum(each is not None and each.scored for each in rows) >= 2


def _hopeless(rows: Known) -> bool:
    """Whether every outcome is known and there is nothing to compare."""
    return all(each is not None for each in rows) and not _trainable(rows)

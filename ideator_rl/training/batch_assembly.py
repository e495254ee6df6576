"""Which groups are trained when a batch closes: quorum, deadline, deferred groups, masked rows.

Pure decisions: no clock, no torch.

- A batch closes when a share of its rows, the quorum, has an outcome, or its deadline has passed; never while none of
  its groups and of the deferred ones could be trained.
- A group is ready when that share of *its* rows has an outcome and two or more rows have a reward.  Its missing rows
  are masked.
- A group that is not ready is deferred.  It is trained in a later batch, in the slot of a group that is missing there:
  when it is ready, or `max_age` batches later with the rewards it has by then.
- A group that is never trained is dropped.  Its outcomes are in buffer, archive and report all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Outcome:
    """The result of one completion."""

    rewards: list[float | None]
    """One per reward function; all None if the row is not to be trained on."""
    status: str = ""
    cell: str = ""
    measured: float | None = None
    """The reward of its experiment alone, without what other functions added."""

    @property
    def scored(self) -> bool:
        return any(reward is not None for reward in self.rewards)


Outcomes = Sequence[Outcome | None]
"""One per row; None while a row's outcome is awaited."""
GroupId = tuple[int, int]
"""Batch that a group was sampled in, and its number there."""


@dataclass
class GroupSlot:
    """A group that is trained in a batch, and the slot of the batch that it fills."""

    slot: int
    """The group of the trained batch whose rows it takes."""
    batch: int
    """The batch that it was sampled in, and"""
    group: int
    """its number there."""
    outcomes: list[Outcome | None]

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> GroupSlot:
        outcomes = [None if outcome is None else Outcome(**outcome) for outcome in body["outcomes"]]
        return cls(body["slot"], body["batch"], body["group"], outcomes)


@dataclass
class TrainBatch:
    """What is trained as one batch: from it the same update can be computed again.

    `closings.jsonl` stores it; `slots` is called `seats` there, and `deferred` is called `parked`.
    """

    index: int
    slots: list[GroupSlot]
    deferred: list[GroupId]
    """Groups that wait for a later batch."""
    dropped: list[GroupId]
    """Groups that will never be trained."""
    waited: float = 0.0
    """Seconds from the trainer's being ready for this batch until it closed."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Prompt and completion of ideas to imitate with this batch."""
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """What reward functions had logged when it closed."""

    def to_json(self) -> dict[str, Any]:
        body = asdict(self)
        body["seats"], body["parked"] = body.pop("slots"), body.pop("deferred")
        return body

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> TrainBatch:
        deferred, dropped = ([(batch, group) for batch, group in body[name]] for name in ("parked", "dropped"))
        slots = [GroupSlot.from_json(slot) for slot in body["seats"]]
        return cls(body["index"], slots, deferred, dropped, body["waited"], body["examples"], body["metrics"])


@dataclass(frozen=True)
class Layout:
    """The order of a batch's rows: P groups of G, cut into equal slices, one per rank."""

    groups: int
    group_size: int
    rows_per_rank: int

    def rows(self, group: int) -> range:
        """The rows of a group."""
        return range(group * self.group_size, (group + 1) * self.group_size)

    def local_rows(self, group: int, rank: int) -> list[int]:
        """The rows of a group that a rank has, counted in the rank's own slice."""
        start = rank * self.rows_per_rank
        return [row - start for row in self.rows(group) if start <= row < start + self.rows_per_rank]

    def rows_by_rank(self, group: int) -> tuple[tuple[int, int], ...]:
        """(rank, number of the group's rows there); groups for which this is equal can take each other's slot."""
        ranks = [row // self.rows_per_rank for row in self.rows(group)]
        return tuple((rank, ranks.count(rank)) for rank in sorted(set(ranks)))


@dataclass(frozen=True)
class ClosingRule:
    """When a batch closes, and which groups it trains."""

    quorum: float = 1.0
    """Share of a batch's rows, and of a group's, that must have an outcome."""
    max_age: int = 4
    """Batches that a group may be deferred."""

    def has_quorum(self, outcomes: Outcomes) -> bool:
        """Whether enough of these rows have an outcome."""
        # The small number undoes rounding: 0.55 of 100 rows are 55, not 56.
        return sum(outcome is not None for outcome in outcomes) >= math.ceil(self.quorum * len(outcomes) - 1e-9)

    def close(
        self,
        index: int,
        layout: Layout,
        outcomes: Mapping[int, Outcomes],
        deferred: Sequence[GroupId] = (),
        waited: float = 0.0,
    ) -> TrainBatch:
        """Choose the groups to train as batch `index` from what is ready now.

        Args:
            outcomes: by batch, of this one and of every batch with deferred groups.
            deferred: groups of earlier batches, oldest first.
        """
        # Groups of this batch stay in their own slots; those that are not ready leave theirs free.
        own = {group: [outcomes[index][row] for row in layout.rows(group)] for group in range(layout.groups)}
        slots = [GroupSlot(group, index, group, rows) for group, rows in own.items() if self._is_ready(rows)]
        free = [group for group, rows in own.items() if not self._is_ready(rows)]
        newly_deferred = [(index, group) for group in free if not _is_hopeless(own[group])]
        dropped = [(index, group) for group in free if _is_hopeless(own[group])]
        still_deferred: list[GroupId] = []
        # Deferred groups fill the free slots, oldest first: those are next to reach their last chance.
        for batch, group in deferred:
            rows = [outcomes[batch][row] for row in layout.rows(group)]
            is_last_chance = index - batch >= self.max_age
            slot = next((empty for empty in free if layout.rows_by_rank(empty) == layout.rows_by_rank(group)), None)
            # With too few rewards it waits; at the last chance two are enough.
            if slot is not None and (self._is_ready(rows) or (is_last_chance and _is_trainable(rows))):
                slots.append(GroupSlot(slot, batch, group, rows))
                free.remove(slot)
            elif is_last_chance or _is_hopeless(rows):
                dropped.append((batch, group))
            else:
                still_deferred.append((batch, group))
        return TrainBatch(index, slots, still_deferred + newly_deferred, dropped, waited)

    def _is_ready(self, rows: Outcomes) -> bool:
        return self.has_quorum(rows) and _is_trainable(rows)


def _is_trainable(rows: Outcomes) -> bool:
    """Whether a group has two rewards or more to compare."""
    return sum(outcome is not None and outcome.scored for outcome in rows) >= 2


def _is_hopeless(rows: Outcomes) -> bool:
    """Whether every outcome has come, and the group cannot be trained."""
    return all(outcome is not None for outcome in rows) and not _is_trainable(rows)

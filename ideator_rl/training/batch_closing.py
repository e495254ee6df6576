"""When a batch closes, and which groups it trains: quorum, deadline, deferred groups, masked rows.

Pure decisions: no clock, no torch.  `Pipeline._close` waits and asks.

- A batch is due when a share of its rows, the quorum, has an outcome, or when its deadline has passed.
- A batch that is due closes if it has a group to train, its own or a deferred one.  Else it waits for its outcomes.
- Past its deadline a batch without a ready group trains those with two different rewards.
- When every outcome has come and there is still no group to train, it closes empty.  It raises if every row was lost,
  unless the budget is spent or the recipe says how many may be lost.
- A group is ready when the quorum of *its* rows has an outcome and two or more rows have a reward.  Its missing rows
  are masked.
- A group that is not ready is deferred: it waits for a later batch that has a free slot with the same rows per rank.
- A deferred group is trained there when it is ready.  At its last chance, `max_age` batches later, two rewards are
  enough; without them, or without such a slot, it is dropped.
- A group is dropped at once when every outcome has come and fewer than two have a reward.
- A dropped group is never trained.  Its outcomes are still in buffer, archive and report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ideator_rl.errors import IdeatorError


@dataclass
class Outcome:
    """The result of one completion."""

    rewards: list[float | None]
    """One per reward function; all None if the row is not to be trained on."""
    status: str = ""
    cell: str = ""
    execution_reward: float | None = None
    """The reward of its experiment alone, without what other functions added."""
    is_screened_out: bool = False
    """It was sampled and not run: a screen preferred others."""
    forecast: float | None = None
    """What it is trained on in the place of rewards; None where it is trained on these."""

    @property
    def is_trainable(self) -> bool:
        return self.forecast is not None or self.has_reward

    @property
    def has_reward(self) -> bool:
        return any(reward is not None for reward in self.rewards)

    def to_json(self) -> dict[str, Any]:
        """Files of 0.1.0 call `execution_reward` `measured`, and must stay readable."""
        body = asdict(self)
        body["measured"] = body.pop("execution_reward")
        # Without a screen the files are those of earlier releases.
        for name, default in (("is_screened_out", False), ("forecast", None)):
            if body[name] == default:
                del body[name]
        return body

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Outcome:
        values = (body.get("status", ""), body.get("cell", ""), body.get("measured"))
        return cls(body["rewards"], *values, body.get("is_screened_out", False), body.get("forecast"))


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
    """The batch that it was sampled in."""
    group: int
    """Its number in the batch that it was sampled in."""
    outcomes: list[Outcome | None]

    def to_json(self) -> dict[str, Any]:
        outcomes = [outcome and outcome.to_json() for outcome in self.outcomes]
        return {"slot": self.slot, "batch": self.batch, "group": self.group, "outcomes": outcomes}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> GroupSlot:
        outcomes = [None if outcome is None else Outcome.from_json(outcome) for outcome in body["outcomes"]]
        return cls(body["slot"], body["batch"], body["group"], outcomes)


@dataclass
class TrainBatch:
    """What is trained as one batch: from it the same update can be computed again.

    `closings.jsonl` stores it.  `slots` is called `seats` there, and `deferred` is called `parked`: files of 0.1.0 have
    these names, and must stay readable.
    """

    index: int
    slots: list[GroupSlot]
    deferred: list[GroupId]
    """Groups that wait for a later batch."""
    dropped: list[GroupId]
    """Groups that will never be trained."""
    waited: float = 0.0
    """Seconds that the trainer waited for this batch."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Prompt and completion of ideas to imitate with this batch."""
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """What reward functions had logged when it closed."""
    is_dry: bool = False
    """Too few of its ideas were new: it trains nothing, and the weights step back towards the start."""
    functions: list[str] | None = None
    """Names of the reward functions, in the order of an outcome's rewards; None in files of earlier releases."""

    def has_rewards_of(self, functions: Sequence[str]) -> bool:
        """Whether its rewards are those of these functions, as far as it names them."""
        if self.functions is not None:
            return self.functions == list(functions)
        outcomes = (outcome for slot in self.slots for outcome in slot.outcomes if outcome and outcome.rewards)
        return all(len(outcome.rewards) == len(functions) for outcome in outcomes)

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "dropped": self.dropped,
            "waited": self.waited,
            "examples": self.examples,
            "metrics": self.metrics,
            "seats": [slot.to_json() for slot in self.slots],
            "parked": self.deferred,
            **({"is_dry": True} if self.is_dry else {}),
            **({"functions": self.functions} if self.functions is not None else {}),
        }

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> TrainBatch:
        deferred, dropped = ([(batch, group) for batch, group in body[name]] for name in ("parked", "dropped"))
        slots = [GroupSlot.from_json(slot) for slot in body["seats"]]
        values = body["waited"], body["examples"], body["metrics"], body.get("is_dry", False), body.get("functions")
        return cls(body["index"], slots, deferred, dropped, *values)


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
    """When a batch closes (`is_due`, then `close`, then `may_close_empty`), and which groups it trains (`close`)."""

    quorum: float = 1.0
    """Share of a batch's rows, and of a group's, that must have an outcome."""
    max_age: int = 4
    """Batches that a group may be deferred."""
    deadline: float | None = None
    """Seconds from its submission after which a batch is due without its quorum; None for never."""

    def is_due(self, outcomes: Outcomes, seconds: float) -> bool:
        """Whether a batch with these rows, submitted so many seconds ago, should close if it has a group to train."""
        return self.has_quorum(outcomes) or self._is_overdue(seconds)

    def _is_overdue(self, seconds: float) -> bool:
        return self.deadline is not None and seconds >= self.deadline

    def has_quorum(self, outcomes: Outcomes) -> bool:
        """Whether enough of these rows have an outcome; rows that were screened out do not count."""
        outcomes = [outcome for outcome in outcomes if outcome is None or not outcome.is_screened_out]
        # The small number undoes rounding: 0.55 of 100 rows are 55, not 56.
        return sum(outcome is not None for outcome in outcomes) >= math.ceil(self.quorum * len(outcomes) - 1e-9)

    def close(
        self,
        index: int,
        layout: Layout,
        outcomes: Mapping[int, Outcomes],
        deferred: Sequence[GroupId] = (),
        waited: float = 0.0,
        seconds: float = 0.0,
    ) -> TrainBatch:
        """Choose the groups to train as batch `index` from what is ready now, whether the batch is due or not.

        Args:
            outcomes: by batch, of this one and of every batch with deferred groups.
            deferred: groups of earlier batches, oldest first.
            waited: seconds that the trainer waited, for the record.
            seconds: since the batch was submitted.
        """
        train_batch = self._choose(index, layout, outcomes, deferred, self._is_ready)
        # A batch of one group has its quorum when that group has it: without this the deadline would change nothing.
        if not train_batch.slots and self._is_overdue(seconds):
            train_batch = self._choose(index, layout, outcomes, deferred, _has_signal)
        train_batch.waited = waited
        return train_batch

    def _choose(
        self,
        index: int,
        layout: Layout,
        outcomes: Mapping[int, Outcomes],
        deferred: Sequence[GroupId],
        is_ready: Callable[[Outcomes], bool],
    ) -> TrainBatch:
        # Groups of this batch stay in their own slots; those that are not ready leave theirs free.
        own = {group: [outcomes[index][row] for row in layout.rows(group)] for group in range(layout.groups)}
        slots = [GroupSlot(group, index, group, rows) for group, rows in own.items() if is_ready(rows)]
        free = [group for group, rows in own.items() if not is_ready(rows)]
        newly_deferred = [(index, group) for group in free if not _is_hopeless(own[group])]
        dropped = [(index, group) for group in free if _is_hopeless(own[group])]
        still_deferred: list[GroupId] = []
        # Deferred groups fill the free slots, oldest first: those are next to reach their last chance.
        for batch, group in deferred:
            rows = [outcomes[batch][row] for row in layout.rows(group)]
            is_last_chance = index - batch >= self.max_age
            slot = next((empty for empty in free if layout.rows_by_rank(empty) == layout.rows_by_rank(group)), None)
            # With too few rewards it waits; at the last chance two are enough.
            if slot is not None and (is_ready(rows) or (is_last_chance and _is_trainable(rows))):
                slots.append(GroupSlot(slot, batch, group, rows))
                free.remove(slot)
            elif is_last_chance or _is_hopeless(rows):
                dropped.append((batch, group))
            else:
                still_deferred.append((batch, group))
        return TrainBatch(index, slots, still_deferred + newly_deferred, dropped)

    def may_close_empty(self, outcomes: Mapping[int, Outcomes], may_lose_all: Callable[[], bool]) -> bool:
        """Whether a batch without any group to train may be closed.

        Args:
            outcomes: as for `close`.
            may_lose_all: whether a spent budget explains the losses, or another limit ends the run; called only when
                every outcome has come.

        Raises:
            IdeatorError: everything was lost, and training on would be blind.
        """
        rows = [outcome for batch in outcomes.values() for outcome in batch]
        # A row that is awaited may still make a group ready.
        if any(outcome is None for outcome in rows):
            return False
        # Nothing was lost where nothing was run: a screen had no new idea to choose.
        if all(outcome.is_screened_out for outcome in rows if outcome):
            return True
        # One reward shows that experiments work: the groups were only unlucky.
        if may_lose_all() or any(outcome.has_reward for outcome in rows if outcome):
            return True
        raise IdeatorError(
            "Every experiment of this batch was lost, so there is nothing to learn from, and nothing else is lost. "
            "`ideator-rl status` shows why; mend it and resume."
        )

    def _is_ready(self, rows: Outcomes) -> bool:
        return self.has_quorum(rows) and _is_trainable(rows)


def _is_trainable(rows: Outcomes) -> bool:
    """Whether a group has two rewards or forecasts, or more, to compare."""
    return sum(outcome is not None and outcome.is_trainable for outcome in rows) >= 2


def _has_signal(rows: Outcomes) -> bool:
    """Whether rewards or forecasts of a group differ: equal ones, such as two crashes, give advantages of 0."""
    values = [(outcome.forecast, *outcome.rewards) for outcome in rows if outcome is not None and outcome.is_trainable]
    return len(set(values)) >= 2


def _is_hopeless(rows: Outcomes) -> bool:
    """Whether every row has an outcome, but fewer than two have a reward."""
    return all(outcome is not None for outcome in rows) and not _is_trainable(rows)

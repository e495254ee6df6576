"""The archive: every codebase that was tried, the best distinct ideas, and who descends from whom.

Quality is the reward of successes, a codebase's the mean over its replicates; a failure is known and has none, and what
was lost is not known.  Elites are distinct by resulting tree and by cell (the best tree of each cell): twenty learning
rates are one idea.  Updating reads on where it stopped.

Guarantees: the same records in the same order give the same archive, whenever it was updated; safe to use from
several threads.  The order of records is that of knowing, so "what was known then" is a count of records (`len`).
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from ideator_rl.archive.baseline import Baseline, baseline_of
from ideator_rl.experiment import LOST, SUCCEEDED, Experiment
from ideator_rl.patch import Tree
from ideator_rl.patch.cells import cell_of
from ideator_rl.reward_buffer import BASELINE, RewardBuffer
from ideator_rl.storage.journal import Descent

Expansion = tuple[int, tuple[str, ...]]
"""One prompt that showed parents: its step, and the parents' experiment ids."""


@dataclass
class _Codebase:
    record: Experiment
    """Its first success, or its first run."""
    since: int
    """Records that were known before it."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Of its successful replicates, by experiment id."""
    metrics: dict[str, float] = field(default_factory=dict)
    cell: str = ""

    @property
    def quality(self) -> float:
        return statistics.fmean(self.rewards.values())


class Archive:
    def __init__(self, direction: str, base: Tree | None = None):
        """Args:
        direction: of the metric, `min` or `max`.
        base: the baseline codebase, by which cells name functions; see `cell_of`.
        """
        self.direction, self._base = direction, base
        self.baseline: Baseline | None = None
        """None while it is unknown."""
        self._lock = threading.RLock()
        self._read = self._read_lineage = 0
        self._trees: dict[str, str] = {}
        """Experiment id to tree, in the order of knowing; the tree is empty where none came of an idea."""
        self._records: list[Experiment] = []
        self._codebases: dict[str, _Codebase] = {}
        self._elites: list[Experiment] | None = None
        self._successes: list[Experiment] | None = None
        self._children: dict[str, dict[str, None]] = {}
        self._parents: dict[str, dict[str, None]] = {}
        self._expansions: dict[str, set[Expansion]] = {}
        self._prompts: set[Expansion] = set()
        self._penalised: Set[str] = frozenset()
        self._penalty = 0.0

    def __len__(self) -> int:
        """Records known: of different ids, and not lost."""
        return len(self._trees)

    def update(self, history: Sequence[Experiment], lineage: Sequence[Descent] = (), most: int | None = None) -> None:
        """Read what was appended since the last time.

        Args:
            history: append-only, as `RewardBuffer.history`; always the same list.
            most: stop when so many records are known; what comes later is left for the next time.
        """
        with self._lock:
            descents = len(lineage)  # before the history: a descent is noted after its child
            end = len(history)
            while self._read < end and (most is None or len(self) < most):
                self._enter(history[self._read])
                self._read += 1
            for child, parents, step in lineage[self._read_lineage : descents]:
                self._descend(child, parents, step)
            self._read_lineage = descents

    def begin_with(self, records: Iterable[Experiment]) -> None:
        """Enter records of other runs, before any of this one."""
        with self._lock:
            for record in records:
                self._enter(record)

    def knows(self, record_or_tree: Experiment | str, before: int | None = None) -> bool:
        """Whether a codebase was tried; of a record without one, whether it is known itself.

        Args:
            before: a count of records: whether it was known when so many were.
        """
        with self._lock:
            if isinstance(record_or_tree, Experiment) and not record_or_tree.tree:
                return record_or_tree.id in self._trees
            tree = record_or_tree if isinstance(record_or_tree, str) else record_or_tree.tree
            found = self._codebases.get(tree)
            return found is not None and (before is None or found.since < before)

    def quality(self, what: Experiment | str) -> float | None:
        """Mean reward of a codebase's successful replicates, by record, experiment id or tree; None without one."""
        found = self._of(what)
        return found.quality if found and found.rewards else None

    def metric(self, what: Experiment | str) -> float | None:
        """Mean metric of a codebase's successful replicates."""
        found = self._of(what)
        return statistics.fmean(found.metrics.values()) if found and found.metrics else None

    def cell(self, what: Experiment | str) -> str:
        found = self._of(what)
        return found.cell if found else ""

    def elites(self, k: int | None = None) -> list[Experiment]:
        """The best idea of each cell, best first, at most k; each the first successful run of its codebase.

        A patch that somebody wrote by hand is no idea.
        """
        with self._lock:
            if self._elites is None:
                self._elites = _distinct(self._ranked())
            return self._elites[:k]

    def successes(self) -> list[Experiment]:
        """Every idea that succeeded, best first, however alike; of each codebase the first successful run."""
        with self._lock:
            if self._successes is None:
                self._successes = [each.record for each in self._ranked()]
            return self._successes

    def records(self) -> list[Experiment]:
        """Every record that is known, failures too, each once, in the order of knowing.  Not to be changed."""
        return self._records

    def penalise(self, trees: Set[str], spans: float) -> None:
        """Rank these codebases as if their quality were lower by so many spans from worst to best; it stays what it
        is."""
        with self._lock:
            self._penalised, self._penalty = trees, spans
            self._elites = self._successes = None

    def _ranked(self) -> list[_Codebase]:
        """Ideas that succeeded, best first."""
        span = self.span() or (0.0, 0.0)
        less = self._penalty * (span[1] - span[0])

        def rank(each: _Codebase) -> tuple[float, int]:
            return each.quality - (less if each.record.tree in self._penalised else 0.0), -each.since

        good = (each for each in self._codebases.values() if each.rewards and each.record.idea)
        return sorted(good, key=rank, reverse=True)

    def kth_best(self, k: int) -> float | None:
        """Quality of the k-th best elite, counted from 1; None while there are fewer."""
        elites = self.elites(k)
        return self.quality(elites[k - 1]) if len(elites) >= k else None

    def span(self) -> tuple[float, float] | None:
        """Lowest and highest quality seen, the baseline's too; None before anything succeeded."""
        with self._lock:
            seen = [each.quality for each in self._codebases.values() if each.rewards]
        seen += [self.baseline.quality] if self.baseline else []
        return (min(seen), max(seen)) if seen else None

    def parents(self, child: Experiment | str) -> list[Experiment]:
        """The ideas that the prompts of a codebase showed."""
        return self._relatives(child, self._parents)

    def children(self, parent: Experiment | str) -> list[Experiment]:
        """Codebases that were proposed in answer to this one, failures too, oldest first."""
        return self._relatives(parent, self._children)

    def best_child(self, parent: Experiment | str) -> Experiment | None:
        """The child of the highest quality; None when none succeeded."""
        good = [child for child in self.children(parent) if self.quality(child) is not None]
        return max(good, key=lambda child: self.quality(child) or 0.0, default=None)

    def descendants(self, what: Experiment | str) -> set[str]:
        """Trees of children, their children, and so on; never its own."""
        return self._reached(what, self._children)

    def kin(self, what: Experiment | str) -> set[str]:
        """Its own tree, and those of all its ancestors and descendants: one lineage."""
        return {self._tree(what)} | self._reached(what, self._parents) | self._reached(what, self._children)

    def expansions(self, what: Experiment | str) -> int:
        """Prompts that showed this idea or a descendant of it."""
        with self._lock:
            trees = {self._tree(what)} | self.descendants(what)
            return len(set[Expansion]().union(*(self._expansions.get(tree, set()) for tree in trees)))

    @property
    def prompts(self) -> int:
        """Prompts that showed ideas, of which something came."""
        return len(self._prompts)

    def _enter(self, record: Experiment) -> None:
        if record.status == LOST or record.implementer == BASELINE:
            return
        known = len(self)
        if record.id not in self._trees:
            self._trees[record.id] = record.tree
            self._records.append(record)
        if not record.tree:
            return
        found = self._codebases.setdefault(record.tree, _Codebase(record, known))
        if record.status != SUCCEEDED or record.reward is None:
            return
        if not found.rewards:
            found.record, found.cell = record, cell_of(record.patch, self._base)
        found.rewards[record.id] = record.reward
        if record.metric:
            found.metrics[record.id] = float(record.metric["value"])
        self._elites = self._successes = None

    def _descend(self, child: str, parents: tuple[str, ...], step: int) -> None:
        self._prompts.add((step, parents))
        for parent in map(self._tree, parents):
            self._expansions.setdefault(parent, set()).add((step, parents))
            if (tree := self._trees.get(child)) and tree != parent:  # a copy of its parent is no descendant
                self._children.setdefault(parent, {})[tree] = None
                self._parents.setdefault(tree, {})[parent] = None

    def _tree(self, what: Experiment | str) -> str:
        return what.tree if isinstance(what, Experiment) else self._trees.get(what, what)

    def _of(self, what: Experiment | str) -> _Codebase | None:
        with self._lock:
            return self._codebases.get(self._tree(what))

    def _relatives(self, what: Experiment | str, edges: dict[str, dict[str, None]]) -> list[Experiment]:
        with self._lock:
            trees = edges.get(self._tree(what), {})
            return [self._codebases[tree].record for tree in trees if tree in self._codebases]

    def _reached(self, what: Experiment | str, edges: dict[str, dict[str, None]]) -> set[str]:
        with self._lock:
            start = self._tree(what)
            seen, todo = {start}, [start]
            while todo:
                for tree in edges.get(todo.pop(), {}):
                    if tree not in seen:
                        seen.add(tree)
                        todo.append(tree)
            return seen - {start}


def _distinct(ranked: Iterable[_Codebase]) -> list[Experiment]:
    """Of each cell the first."""
    first: dict[str, Experiment] = {}
    for each in ranked:
        first.setdefault(each.cell or each.record.tree, each.record)
    return list(first.values())


def elites_for_imitation(archive: Archive, limit: int = 48) -> list[Experiment]:
    """The best idea of each cell, best first, if it is better than the baseline by more than the noise of a run.

    While the baseline is unknown, better than the mean of the elites.  `RewardBuffer.completion_of` has the words
    that led to each.
    """
    elites = archive.elites()
    values = [archive.quality(elite) or 0.0 for elite in elites]
    known = archive.baseline
    bar = known.quality + (known.spread or 0.0) if known else statistics.fmean(values or [0.0])
    return [elite for elite, value in zip(elites, values, strict=True) if value > bar][:limit]


_archives: WeakKeyDictionary[RewardBuffer, Archive] = WeakKeyDictionary()
_archives_lock = threading.Lock()


def archive_of(buffer: RewardBuffer, known: int | None = None, step: int = 0) -> Archive:
    """The archive of a run: one an open buffer, brought up to what the buffer knows.

    Args:
        known: an archive as it was when so many records were known, in a resumed run; one apart if that is not now.
        step: of that one, descents of the steps before this one are in it.
    """
    with _archives_lock:
        archive = _archives.get(buffer)
        if archive is None:
            archive = _archives.setdefault(buffer, _empty(buffer))
    archive.update(buffer.history, buffer.lineage)
    archive.baseline = baseline_of(buffer)
    if known is None or known >= len(archive):
        return archive
    past = _empty(buffer)
    past.update(buffer.history, [descent for descent in buffer.lineage if descent[2] < step], known)
    past.baseline = archive.baseline
    return past


def _empty(buffer: RewardBuffer) -> Archive:
    """What is known before the first record of a run."""
    archive = Archive(buffer.executor.environment.metric.direction, buffer.executor.base)
    archive.begin_with(buffer.elsewhere)
    return archive

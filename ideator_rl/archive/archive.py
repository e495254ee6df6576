"""The archive: every codebase that was tried, the best distinct ideas, and the lineage between them.

Quality    mean reward over the successful replicates of a codebase; a failure is in the archive without a quality, a
           lost experiment is not in it
Elites     the best codebase of each cell: twenty learning rates are one idea
Lineage    which codebases were proposed in answer to prompts that showed which

Guarantees: the same records in the same order give the same archive, whenever it was updated.  Safe to use from several
threads.  Records keep the order in which they became known, so a past state of the archive is a count of records.
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
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.storage.journal_reader import Descent

Expansion = tuple[int, tuple[str, ...]]
"""A prompt that showed parents: its step, and the parents' experiment ids."""


@dataclass
class _Codebase:
    record: Experiment
    """Its first success, or its first run."""
    index: int
    """Records that were in the archive before it."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Rewards of its successful replicates, by experiment id."""
    metrics: dict[str, float] = field(default_factory=dict)
    cell: str = ""
    """The places that its patch touches; empty before its first success."""

    @property
    def quality(self) -> float:
        return statistics.fmean(self.rewards.values())


class Archive:
    def __init__(self, direction: str, base: Tree | None = None):
        """Args:
        direction: of the metric, `min` or `max`.
        base: the baseline codebase, from which cells take function names; see `cell_of`.
        """
        self.direction, self._base = direction, base
        self.baseline: Baseline | None = None
        """None while it is unknown."""
        # The lock guards everything below: rewards, strategies and the trainer's callbacks call from several threads.
        self._lock = threading.RLock()
        self._next_record = self._next_descent = 0
        """Where the next `update` continues in the history and in the lineage."""
        self._trees: dict[str, str] = {}
        """Tree by experiment id, in the order of records; empty for an idea without a codebase."""
        self._records: list[Experiment] = []
        self._codebases: dict[str, _Codebase] = {}
        # Computed on demand; None after a record or penalty that changes the ranking.
        self._elites: list[Experiment] | None = None
        self._successes: list[Experiment] | None = None
        # Edges between trees; dicts serve as ordered sets.
        self._children: dict[str, dict[str, None]] = {}
        self._parents: dict[str, dict[str, None]] = {}
        self._expansions: dict[str, set[Expansion]] = {}
        self._prompts: set[Expansion] = set()
        self._penalised: Set[str] = frozenset()
        self._penalty = 0.0

    def __len__(self) -> int:
        """Number of records: distinct experiment ids, without lost ones."""
        return len(self._trees)

    def update(self, history: Sequence[Experiment], lineage: Sequence[Descent] = (), limit: int | None = None) -> None:
        """Add what was appended since the last call.

        Args:
            history: append-only, as `RewardBuffer.history`; the same list at every call.
            limit: stop at this many records; later ones are left for the next call.
        """
        with self._lock:
            # The lineage's end first: a descent is appended after its child, so every descent up to here has its
            # child in the history that is read below.
            last_descent = len(lineage)
            end = len(history)
            while self._next_record < end and (limit is None or len(self) < limit):
                self._add(history[self._next_record])
                self._next_record += 1
            for child, parents, step in lineage[self._next_descent : last_descent]:
                self._add_descent(child, parents, step)
            self._next_descent = last_descent

    def add_imported(self, records: Iterable[Experiment]) -> None:
        """Add records of other runs, before any of this one."""
        with self._lock:
            for record in records:
                self._add(record)

    def knows(self, record_or_tree: Experiment | str, before: int | None = None) -> bool:
        """Whether a codebase was tried; for a record without a codebase, whether the record is in the archive.

        Args:
            before: look only at the first `before` records.
        """
        with self._lock:
            if isinstance(record_or_tree, Experiment) and not record_or_tree.tree:
                return record_or_tree.id in self._trees
            tree = record_or_tree if isinstance(record_or_tree, str) else record_or_tree.tree
            codebase = self._codebases.get(tree)
            return codebase is not None and (before is None or codebase.index < before)

    # Most methods take a record, an experiment id, or a tree.

    def quality(self, idea: Experiment | str) -> float | None:
        """Mean reward of the codebase's successful replicates; None without a success."""
        codebase = self._codebase(idea)
        return codebase.quality if codebase and codebase.rewards else None

    def metric(self, idea: Experiment | str) -> float | None:
        """Mean metric of the codebase's successful replicates; None without a success."""
        codebase = self._codebase(idea)
        return statistics.fmean(codebase.metrics.values()) if codebase and codebase.metrics else None

    def cell(self, idea: Experiment | str) -> str:
        """The places that the codebase's patch touches; empty without a success."""
        codebase = self._codebase(idea)
        return codebase.cell if codebase else ""

    def elites(self, k: int | None = None) -> list[Experiment]:
        """The best idea of each cell, best first, at most k; each the first successful run of its codebase.

        Patches written by hand are left out.
        """
        with self._lock:
            if self._elites is None:
                best_of_cell: dict[str, Experiment] = {}
                for codebase in self._ranked():
                    best_of_cell.setdefault(codebase.cell or codebase.record.tree, codebase.record)
                self._elites = list(best_of_cell.values())
            return self._elites[:k]

    def successes(self) -> list[Experiment]:
        """Every idea that succeeded, best first; each the first successful run of its codebase."""
        with self._lock:
            if self._successes is None:
                self._successes = [codebase.record for codebase in self._ranked()]
            return self._successes

    def records(self) -> list[Experiment]:
        """Every record, failures too, in the order in which they became known.  Do not change the list."""
        return self._records

    def penalise(self, trees: Set[str], spans: float) -> None:
        """Rank these codebases as if their quality were lower; `quality` itself does not change.

        Args:
            spans: by how much, in units of the range from the worst to the best quality.
        """
        with self._lock:
            self._penalised, self._penalty = trees, spans
            self._elites = self._successes = None

    def _ranked(self) -> list[_Codebase]:
        """Ideas that succeeded, best first; of equal ones the earlier first."""
        span = self.span() or (0.0, 0.0)
        penalty = self._penalty * (span[1] - span[0])

        def rank(codebase: _Codebase) -> tuple[float, int]:
            return codebase.quality - (penalty if codebase.record.tree in self._penalised else 0.0), -codebase.index

        good = (codebase for codebase in self._codebases.values() if codebase.rewards and codebase.record.idea)
        return sorted(good, key=rank, reverse=True)

    def kth_best(self, k: int) -> float | None:
        """Quality of the k-th best elite, counted from 1; None while there are fewer."""
        elites = self.elites(k)
        return self.quality(elites[k - 1]) if len(elites) >= k else None

    def span(self) -> tuple[float, float] | None:
        """Lowest and highest quality, the baseline's included; None without a success or a known baseline."""
        with self._lock:
            qualities = [codebase.quality for codebase in self._codebases.values() if codebase.rewards]
        qualities += [self.baseline.quality] if self.baseline else []
        return (min(qualities), max(qualities)) if qualities else None

    def parents(self, child: Experiment | str) -> list[Experiment]:
        """The ideas that the prompts of this codebase showed."""
        return self._relatives(child, self._parents)

    def children(self, parent: Experiment | str) -> list[Experiment]:
        """Codebases proposed in answer to prompts that showed this one, failures too, oldest first."""
        return self._relatives(parent, self._children)

    def best_child(self, parent: Experiment | str) -> Experiment | None:
        """The child of the highest quality; None if no child succeeded."""
        good = [child for child in self.children(parent) if self.quality(child) is not None]
        return max(good, key=lambda child: self.quality(child) or 0.0, default=None)

    def descendants(self, idea: Experiment | str) -> set[str]:
        """Trees of its children, their children, and so on, without its own."""
        return self._reachable(idea, self._children)

    def lineage(self, idea: Experiment | str) -> set[str]:
        """Its own tree and those of all its ancestors and descendants."""
        return {self._tree(idea)} | self._reachable(idea, self._parents) | self._reachable(idea, self._children)

    def expansions(self, idea: Experiment | str) -> int:
        """How many prompts showed this idea or a descendant of it."""
        with self._lock:
            trees = {self._tree(idea)} | self.descendants(idea)
            return len(set[Expansion]().union(*(self._expansions.get(tree, set()) for tree in trees)))

    @property
    def prompts(self) -> int:
        """How many prompts showed ideas and led to a codebase."""
        return len(self._prompts)

    def _add(self, record: Experiment) -> None:
        if record.status == LOST or record.is_baseline:
            return
        index = len(self)
        if record.id not in self._trees:
            self._trees[record.id] = record.tree
            self._records.append(record)
        if not record.tree:
            return
        codebase = self._codebases.setdefault(record.tree, _Codebase(record, index))
        if record.status != SUCCEEDED or record.reward is None:
            return
        if not codebase.rewards:
            codebase.record, codebase.cell = record, cell_of(record.patch, self._base)
        codebase.rewards[record.id] = record.reward
        if record.metric:
            codebase.metrics[record.id] = float(record.metric["value"])
        self._elites = self._successes = None

    def _add_descent(self, child: str, parents: tuple[str, ...], step: int) -> None:
        self._prompts.add((step, parents))
        for parent in map(self._tree, parents):
            self._expansions.setdefault(parent, set()).add((step, parents))
            # A copy of its parent is not its descendant.
            if (tree := self._trees.get(child)) and tree != parent:
                self._children.setdefault(parent, {})[tree] = None
                self._parents.setdefault(tree, {})[parent] = None

    def _tree(self, idea: Experiment | str) -> str:
        return idea.tree if isinstance(idea, Experiment) else self._trees.get(idea, idea)

    def _codebase(self, idea: Experiment | str) -> _Codebase | None:
        with self._lock:
            return self._codebases.get(self._tree(idea))

    def _relatives(self, idea: Experiment | str, edges: dict[str, dict[str, None]]) -> list[Experiment]:
        with self._lock:
            trees = edges.get(self._tree(idea), {})
            return [self._codebases[tree].record for tree in trees if tree in self._codebases]

    def _reachable(self, idea: Experiment | str, edges: dict[str, dict[str, None]]) -> set[str]:
        with self._lock:
            start = self._tree(idea)
            visited, todo = {start}, [start]
            while todo:
                for tree in edges.get(todo.pop(), {}):
                    if tree not in visited:
                        visited.add(tree)
                        todo.append(tree)
            return visited - {start}


def elites_for_imitation(archive: Archive, limit: int = 48) -> list[Experiment]:
    """The elites that are better than the baseline by more than the noise of a run, best first, at most `limit`.

    While the baseline is unknown: those better than the mean of the elites.  `Journal.completion_of` returns the
    completion that led to each.
    """
    elites = archive.elites()
    qualities = [archive.quality(elite) or 0.0 for elite in elites]
    baseline = archive.baseline
    bar = baseline.quality + (baseline.spread or 0.0) if baseline else statistics.fmean(qualities or [0.0])
    return [elite for elite, quality in zip(elites, qualities, strict=True) if quality > bar][:limit]


_archives: WeakKeyDictionary[RewardBuffer, Archive] = WeakKeyDictionary()
_archives_lock = threading.Lock()


def archive_of(buffer: RewardBuffer, count: int | None = None, step: int = 0) -> Archive:
    """The archive of a run, up to date with its buffer; every open buffer has one.

    Args:
        count: the archive as it was with this many records, for a resumed run; a separate one if it has more today.
        step: as it was at the start of this step: without its descents and those of later steps.
    """
    with _archives_lock:
        archive = _archives.get(buffer)
        if archive is None:
            archive = _archives.setdefault(buffer, _empty(buffer))
    archive.update(buffer.history, buffer.lineage)
    archive.baseline = baseline_of(buffer)
    if count is None:
        return archive
    earlier = [descent for descent in buffer.lineage if descent[2] < step]
    # Descents may be newer than all records: an idea that led to a known codebase adds one, and no record.
    if count >= len(archive) and len(earlier) == len(buffer.lineage):
        return archive
    past = _empty(buffer)
    past.update(buffer.history, earlier, count)
    past.baseline = archive.baseline
    return past


def _empty(buffer: RewardBuffer) -> Archive:
    """The archive before the first record of a run."""
    archive = Archive(buffer.executor.environment.metric.direction, buffer.executor.base)
    archive.add_imported(buffer.imported)
    return archive

"""Which codebase an idea is written against: the recipe key `inherit`.

    none         the baseline, always
    best_parent  the codebase of the best idea that the prompt shows; its prompt shows that codebase
    chosen       the one that the idea names, by `Base: 2` as the first line of [Experiment], of those that the prompt
                 offers: the baseline, each shown idea with code, and merges of two of them that do not conflict

A parent's codebase is its patch on today's baseline, so it is there even if the bucket has lost it.  Where the patch
leads to another codebase than the parent's, the environment has changed: the parent is not used, and `Base.problem`
says so in a sentence.

A trainer's rows carry what their prompt offers in the column `code_bases`.  So ideas that are run again after a kill
change the same codebases, whatever the archive holds by then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.patch import PatchError, Tree, diff, judge, patched_tree, tree_hash
from ideator_rl.patch.merge import merged_tree
from ideator_rl.patch.shown_files import FILES_TOKENS
from ideator_rl.storage.idea_context import Base

if TYPE_CHECKING:  # it imports the executor, and recipes that read `Inherit` are refused within a second
    from ideator_rl.archive.archive import Archive

Inherit = Literal["none", "best_parent", "chosen"]
NONE, BEST_PARENT, CHOSEN = "none", "best_parent", "chosen"
COLUMN = "code_bases"
"""Of a trainer's rows: a list of `Option.to_json`, empty or null where every idea changes the baseline."""
MAX_TREES = 128
"""Codebases of parents that are kept in memory."""
MERGED_PARENTS = 3
"""Of so many shown ideas with code, the first ones, every pair is tried as a merge."""
_NAMED = re.compile(r"[\s*_`]*base[*_`]*:[\s*_`]*(\d{1,4})(?:\s*\+\s*(\d{1,4}))?[\s*_`.]*", re.IGNORECASE)
"""The line of an idea that names its base; models also set it in bold or as code."""


@dataclass(frozen=True)
class Option:
    """A codebase that a prompt offers."""

    name: str
    """As an idea names it: `0` for the baseline, `2` for the second shown idea, `1+2` for a merge.  Empty for the
    codebase that all ideas of the prompt change, whatever they name."""
    base: Base

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self.base), "parents": list(self.base.parents)}

    @classmethod
    def from_json(cls, body: Any) -> Option:
        """
        Raises:
            IdeatorError: it is not as `to_json` returned it.
        """
        texts = ("name", "tree", "patch", "problem")
        is_ours = isinstance(body, dict) and body.keys() == {*texts, "parents"}
        # Where no codebase of a column has parents, a data set may hold null in the place of empty lists.
        parents = body["parents"] or () if is_ours else ()
        is_ours = is_ours and isinstance(parents, (list, tuple))
        if not is_ours or not all(isinstance(text, str) for text in (*map(body.get, texts), *parents)):
            raise IdeatorError(
                f"The column {COLUMN} holds {str(body)[:100]!r}. Expected codebases, each with name, tree, patch, "
                "parents and problem, as the rows of a run with `inherit` have them. If it means something else, "
                "rename it."
            )
        return cls(body["name"], Base(body["tree"], body["patch"], tuple(parents), body["problem"]))


class Bases:
    """The codebases that ideas about one environment and preset may be written against."""

    def __init__(self, environment: Environment, preset: str, inherit: str = NONE):
        self.environment, self.preset, self.inherit = environment.at(preset), preset, inherit
        self._trees: dict[str, Tree] = {}
        """Codebases by the patch to the baseline."""

    def tree(self, base: Base | None) -> Tree:
        """The codebase of a base that this object returned; the baseline for None."""
        return self._patched(base.patch) if base is not None and base.tree else self._baseline

    def of_parent(self, record: Experiment) -> Base:
        """The base that an experiment's codebase is; `problem` says why it cannot be one."""
        if not record.tree:
            return Base(parents=(record.id,), problem=f"The idea {record.id} has no code to build on: {record.status}.")
        outdated = f"The code of {record.id} no longer applies to the environment {self.environment.name}"
        try:
            tree = self._patched(record.patch)
        except PatchError as error:
            return Base(parents=(record.id,), problem=f"{outdated}, which has changed since: {_line(error)}.")
        if tree_hash(tree) != record.tree:
            return Base(parents=(record.id,), problem=f"{outdated} as it was: the baseline has changed since.")
        return Base(record.tree, record.patch, (record.id,))

    def for_prompt(self, parents: Sequence[Experiment], archive: Archive) -> Base | None:
        """The base that all ideas of a prompt have; None for the baseline, or where each idea names its own."""
        if self.inherit != BEST_PARENT:
            return None
        # The sort is stable: of equal parents, the first one shown.
        succeeded = [record for record in parents if archive.quality(record) is not None]
        best_first = sorted(succeeded, key=lambda record: archive.quality(record) or 0.0, reverse=True)
        problem = ""
        for record in best_first:
            base = self.of_parent(record)
            if not base.problem:
                return replace(base, problem=problem)
            problem = problem or base.problem
        return Base(parents=(best_first[0].id,), problem=problem) if best_first else None

    def options(self, parents: Sequence[Experiment]) -> list[Option]:
        """What a prompt that shows these ideas offers under `inherit: chosen`, the baseline first."""
        singles = [(number, record, self.of_parent(record)) for number, record in enumerate(parents, 1)]
        singles = [single for single in singles if not single[2].problem]
        merges = self._merges([(number, base) for number, _, base in singles[:MERGED_PARENTS]])
        return [Option("0", Base()), *(Option(str(number), base) for number, _, base in singles), *merges]

    def of_answer(self, completion: str, parents: Sequence[Experiment], archive: Archive) -> Base | None:
        """The base of an idea whose prompt showed these ideas, in this order; None for the baseline."""
        # Merges take a while, and most ideas name no base.
        if self.inherit == CHOSEN and _named(completion) is None:
            return None
        return chosen_base(completion, self.offer(parents, archive))

    def offer(self, parents: Sequence[Experiment], archive: Archive) -> list[Option]:
        """The codebases that answers to a prompt with these ideas may change; none where all change the baseline."""
        if self.inherit == CHOSEN:
            return self.options(parents) if parents else []
        base = self.for_prompt(parents, archive)
        return [] if base is None else [Option("", base)]

    def _merges(self, singles: Sequence[tuple[int, Base]]) -> Iterator[Option]:
        """Merges of two parents whose changes do not conflict."""
        for (number, first), (other, second) in combinations(singles, 2):
            tree = merged_tree(self._baseline, self.tree(first), self.tree(second))
            if tree is None or tree == self._baseline:
                continue
            try:
                judge(self._baseline, tree, self.environment.rules)
            except PatchError:  # together they change too much
                continue
            base = Base(tree_hash(tree), diff(self._baseline, tree), first.parents + second.parents)
            yield Option(f"{number}+{other}", base)

    @property
    def _baseline(self) -> Tree:
        return self._patched("")

    def _patched(self, patch: str) -> Tree:
        tree = self._trees.get(patch)
        if tree is None:
            baseline = self.environment.baseline(self.preset)
            tree = patched_tree(baseline, patch, self.environment.rules) if patch else baseline
            if len(self._trees) >= MAX_TREES:
                self._trees.clear()
            self._trees[patch] = tree
        return tree


def chosen_base(completion: str, options: Sequence[Option]) -> Base | None:
    """The base of an idea whose prompt offered these codebases; None for the baseline."""
    if options and not options[0].name:
        return options[0].base
    name = _named(completion)
    if name is None or not options:
        return None
    for option in options:
        if option.name == name:
            return option.base if option.base.tree else None
    offered = ", ".join(option.name for option in options)
    return Base(problem=f"The idea names the base {name} and its prompt offered {offered}: it changes the baseline.")


def read_options(value: Any) -> list[Option]:
    """What a row's prompt offers, from the column `code_bases`.

    Raises:
        IdeatorError: the value is neither a list of codebases nor null.
    """
    return [Option.from_json(body) for body in (value if isinstance(value, list) else [] if value is None else [value])]


def own_prompt(
    environment: Environment, preset: str, kind: str, inherit: str = NONE, budget: int = FILES_TOKENS
) -> str:
    """The prompt without past ideas; where ideas inherit code it shows the baseline's, which its ideas change."""
    tree = None if inherit == NONE else environment.baseline(preset)
    return environment.prompt(preset, kind, tree, budget)


def _named(completion: str) -> str | None:
    """The name of the base that an idea names; None where it names none."""
    try:
        # Further down, "base" means other things: a base learning rate, the base of a positional encoding.
        match = _NAMED.fullmatch(parse_idea(completion).experiment.splitlines()[0])
    except MalformedIdea:
        return None
    return match and "+".join(str(number) for number in sorted(int(text) for text in match.groups() if text))


def _line(error: PatchError) -> str:
    return str(error).split("\n")[0].rstrip(".:")[:200]

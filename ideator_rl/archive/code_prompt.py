"""The prompt of a question whose ideas may inherit code: past ideas are shown as code, within a budget of tokens.

Half of the budget goes to the files of the codebase that the ideas will change, chosen as a coder's are; the other
half to the past ideas, each with its description and its patch to the baseline.  An idea without a codebase is text.
Past ideas are untrusted text: each part is cut, section marks in it are defused, and braces are not filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ideator_rl.archive.archive import Archive
from ideator_rl.archive.bases import CHOSEN, COLUMN, NONE, Bases, own_prompt
from ideator_rl.archive.prompts import PARENTS, ArchivePrompts, cut, outcome, parent_prompt
from ideator_rl.environments.feedback import feedback_of
from ideator_rl.experiment import Experiment
from ideator_rl.ideas import MalformedIdea, parse_idea, unmarked
from ideator_rl.patch.shown_files import FILES_TOKENS, tokens
from ideator_rl.storage.idea_context import Base

LEAST_TOKENS = 100
"""Tokens that a past idea's patch has at least."""
_UNCUT = 1 << 30


@dataclass(frozen=True)
class CodePrompt:
    """Writes such prompts; see `text`."""

    bases: Bases
    kind: str = "short"
    """Which of the environment's prompts asks for an idea."""

    def text(
        self,
        parents: Sequence[Experiment],
        archive: Archive,
        base: Base | None,
        budget: int,
        idea_chars: int,
        template_name: str = PARENTS,
    ) -> str:
        """The prompt that shows these ideas and the code of `base`.

        Args:
            base: of `Bases.for_prompt`.
            budget: tokens of all code, at most, by estimate.
            idea_chars: characters of an idea's description, at most.
            template_name: see `parent_prompt`.
        """
        environment, level = self.bases.environment, self.bases.environment.feedback
        tree = self.bases.tree(base)
        own = environment.prompt(self.bases.preset, self.kind, tree, budget // 2, self._note(parents, base))
        left, shown = budget - budget // 2, list[tuple[str, float | str | None]]()
        for index, record in enumerate(parents):
            # An equal share of what is left: a long patch gets what the short ones before it did not need.
            share = max(LEAST_TOKENS, left // (len(parents) - index))
            entry = _entry(record, share, idea_chars)
            left = max(0, left - tokens(entry))
            shown.append((entry, outcome(record, archive, level)))
        baseline = archive.baseline.metric if archive.baseline else None
        feedback = [feedback_of(record, level, idea_chars) for record in parents]
        return parent_prompt(environment, own, shown, baseline, _UNCUT, template_name, feedback)

    def _note(self, parents: Sequence[Experiment], base: Base | None) -> str:
        """What precedes the files: whose code they are, and what the edits apply to."""
        if self.bases.inherit == CHOSEN:
            options = [option.name for option in self.bases.options(parents)]
            merges = [name for name in options if "+" in name]
            text = (
                "These are the files of the baseline. The code of each idea below is given as a diff to them. Begin "
                "the section [Experiment] with the line `Base: N`, where N is the number of the idea whose code you "
                f"change, or 0 for the baseline. N may be: {', '.join(options)}."
            )
            if merges:
                text += f" {merges[0]} is the code of both ideas together, whose changes do not conflict."
            return f"{text} Your changes apply to the code that you name.\n\n"
        if base is None or not base.tree:
            return ""
        numbers = [number for number, record in enumerate(parents, 1) if record.id in base.parents]
        named = " and ".join(map(str, numbers))
        return f"These are the files as idea {named} below left them. Your changes apply to these files.\n\n"


@dataclass(frozen=True)
class InheritingPrompts(ArchivePrompts):
    """The rows of a trainer's batches whose ideas inherit code; a row also carries what its prompt offers.

    The ideas of a group have one row, and so the same base or the same choice of bases.
    """

    inherit: str = NONE
    code_tokens: int = FILES_TOKENS
    """Tokens of code in a prompt, at most, by estimate."""

    @cached_property
    def bases(self) -> Bases:
        return Bases(self.buffer.executor.environment, self.buffer.config.preset, self.inherit)

    def _row(self, parents: Sequence[Experiment], archive: Archive) -> dict[str, Any]:
        options = [option.to_json() for option in self.bases.offer(parents, archive)]
        return super()._row(parents, archive) | {COLUMN: options}

    def _text(self, parents: Sequence[Experiment], archive: Archive) -> str:
        if not parents:
            where = self.buffer.executor.environment, self.buffer.config.preset
            return own_prompt(*where, self.kind, self.inherit, self.code_tokens)
        base = self.bases.for_prompt(parents, archive)
        return CodePrompt(self.bases, self.kind).text(parents, archive, base, self.code_tokens, self.idea_chars)


def _entry(record: Experiment, budget: int, idea_chars: int) -> str:
    """A past idea as its prompt shows it."""
    if not record.tree:
        return cut(record.idea, idea_chars)
    try:
        description = parse_idea(record.idea).experiment
    except MalformedIdea:
        description = record.idea
    if len(description) > idea_chars:
        description = description[: max(0, idea_chars - 2)].rstrip() + " …"
    patch = _clipped(record.patch, budget)
    return unmarked(f"{description}\nIts changes to the baseline:\n```diff\n{patch}```")


def _clipped(patch: str, budget: int) -> str:
    """The first lines of a patch, with at most so many tokens."""
    if tokens(patch) <= budget:
        return patch
    lines, size, count = patch.splitlines(keepends=True), 0, 0
    while count < len(lines) and size + tokens(lines[count]) <= budget:
        size += tokens(lines[count])
        count += 1
    return "".join(lines[:count]) + f"[{len(lines) - count} further lines are not shown]\n"

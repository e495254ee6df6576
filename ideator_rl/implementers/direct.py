"""The implementer `direct`: the section [Code Changes] of an idea holds the edits; no model is called.

Accepted: SEARCH/REPLACE blocks, unified diffs or whole files below their path, in fences or not, with prose around.
A model's marked thoughts in the section are left out.
Not covered: the prose is ignored, so the edits may do less than the idea describes.
"""

from __future__ import annotations

from ideator_rl.environments.environment import Environment
from ideator_rl.ideas import CHANGES, Idea
from ideator_rl.implementers.implementer import Implementation, NotImplementable
from ideator_rl.patch import PatchError, Tree
from ideator_rl.patch.parsing import parse
from ideator_rl.text.thoughts import split_thoughts


class DirectImplementer:
    name = "direct"
    trusted = False

    def version(self, environment: Environment) -> str:
        """The patch depends on the idea only."""
        return self.name

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """The section without thoughts, if it can be parsed; whether its edits apply is checked later.

        Raises:
            NotImplementable: (unpatchable, rejected) the section holds no edit, or one that cannot be parsed.
        """
        edits = split_thoughts(idea.changes).answer
        try:
            parse(edits)
        except PatchError as error:
            raise NotImplementable(
                f"The section {CHANGES} must hold the edits themselves, but: {error}", error.kind, patch=idea.changes
            ) from error
        return Implementation(edits)

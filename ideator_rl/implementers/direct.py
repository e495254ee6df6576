"""The implementer `direct`: the section [Code Changes] of an idea holds the edits; no model is called.

Accepted: SEARCH/REPLACE blocks, unified diffs or whole files below their path, in fences or not, with prose around.
Not covered: the prose is ignored, so the edits may do less than the idea describes.
"""

from __future__ import annotations

from ideator_rl.environments.environment import Environment
from ideator_rl.ideas import CHANGES, Idea
from ideator_rl.implementers.implementer import Implementation, NotImplementable
from ideator_rl.patch import PatchError, Tree
from ideator_rl.patch.parsing import parse


class DirectImplementer:
    name = "direct"
    trusted = False

    def version(self, environment: Environment) -> str:
        """The patch depends on the idea only."""
        return self.name

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """The section unchanged, if it can be parsed; whether its edits apply is checked later, as for any patch.

        Raises:
            NotImplementable: (unpatchable, rejected) the section holds no edit, or one that cannot be parsed.
        """
        try:
            parse(idea.changes)
        except PatchError as error:
            raise NotImplementable(
                f"The section {CHANGES} must hold the edits themselves, but: {error}", error.kind, patch=idea.changes
            ) from error
        return Implementation(idea.changes)

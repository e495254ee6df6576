"""The implementer `direct`: the ideator's own edits, in the section [Code Changes] of its idea; no model is asked.

SEARCH/REPLACE blocks, unified diffs or whole files below their path, in fences or not, with prose around them.
Not guaranteed: sentences beside the edits are not read, so an idea may do less than it says.
"""

from __future__ import annotations

from ideator_rl.environments.environment import Environment
from ideator_rl.ideas import CHANGES, Idea
from ideator_rl.implementers.implementer import Implementation, NotImplementable
from ideator_rl.patch import PatchError, Tree
from ideator_rl.patch.text import parse


class DirectImplementer:
    name = "direct"
    trusted = False

    def version(self, environment: Environment) -> str:
        """The idea is all that its answer depends on."""
        return self.name

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """The section as it stands, once it is known to hold an edit; whether that applies is judged as for any patch.

        Raises:
            NotImplementable: (unpatchable, rejected) it holds no edit, or one that cannot be read.
        """
        try:
            parse(idea.changes)
        except PatchError as error:
            raise NotImplementable(
                f"The section {CHANGES} must hold the edits themselves, but: {error}", error.kind, patch=idea.changes
            ) from error
        return Implementation(idea.changes)

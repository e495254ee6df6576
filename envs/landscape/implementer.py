"""The implementer of the landscape: an idea's edits, looked up and written into the listing file; no model is asked."""

from __future__ import annotations

from ideator_rl.environments.environment import Environment
from ideator_rl.envs.landscape.edits import FILE, NotAnIdea, listing, read
from ideator_rl.ideas import Idea
from ideator_rl.implementers.implementer import Implementation
from ideator_rl.patch import PatchError, Tree, diff


class TokenEdits:
    name = "token_edits"
    trusted = True

    def version(self, environment: Environment) -> str:
        """The idea is all that its answer depends on."""
        return self.name

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """A diff of the listing file.

        Raises:
            PatchError: (unpatchable) the section [Experiment] is no list of edits.
        """
        try:
            edits = read(idea.experiment)
        except NotAnIdea as error:
            raise PatchError(str(error)) from error
        return Implementation(diff(base, {**base, FILE: listing(base[FILE], edits)}))

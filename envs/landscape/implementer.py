"""The implementer of the landscape: writes an idea's edits into the listing file, without a model."""

from __future__ import annotations

from ideator_rl.environments.environment import Environment
from ideator_rl.envs.landscape.edits import FILE, NotAnIdea, append_edits, read_idea
from ideator_rl.ideas import Idea
from ideator_rl.implementers.implementer import Implementation
from ideator_rl.patch import PatchError, Tree, diff


class TokenEdits:
    name = "token_edits"
    trusted = True

    def version(self, environment: Environment) -> str:
        """The patch depends on the idea alone."""
        return self.name

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """A diff of the listing file.

        Raises:
            PatchError: (unpatchable) the section [Experiment] is no list of edits.
        """
        try:
            edits = read_idea(idea.experiment)
        except NotAnIdea as error:
            raise PatchError(str(error)) from error
        return Implementation(diff(base, {**base, FILE: append_edits(base[FILE], edits)}))

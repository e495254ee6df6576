"""The implementer `rules`: looks an idea up in the environment's catalogue of edits; no model is called.

An idea outside the catalogue is unpatchable.  Sentences of an idea that match no edit are listed before the diff.
"""

from __future__ import annotations

import hashlib

from ideator_rl.environments.catalogue.catalogue import environment_catalogue
from ideator_rl.environments.environment import Environment
from ideator_rl.ideas import Idea
from ideator_rl.implementers.implementer import Implementation
from ideator_rl.patch import PatchError, Tree, diff


class RulesImplementer:
    name = "rules"
    trusted = True

    def version(self, environment: Environment) -> str:
        """A hash of the catalogue: with another one the same idea gives another patch."""
        catalogue = environment.catalogue_path
        return self.name + (hashlib.sha256(catalogue.read_bytes()).hexdigest() if catalogue else "")

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """A unified diff, below one line for each sentence of the code changes that matches no edit.

        Raises:
            PatchError: (unpatchable) no edit of the catalogue, a bad value, edits that contradict, or no change.
        """
        catalogue = environment_catalogue(environment)
        reading = catalogue.read(idea, base)
        tree = catalogue.apply(base, list(reading.choices))
        if tree == base:
            values = ", ".join(f"{choice.key} = {choice.value}" for choice in reading.choices)
            raise PatchError(f"The idea changes nothing: the baseline already has {values}.")
        ignored = "".join(f"Not understood, and left out: {sentence}\n" for sentence in reading.missed)
        return Implementation(ignored + diff(base, tree))

"""The implementer `rules`: reads an idea against the environment's catalogue of edits; no model is asked.

It knows what the catalogue knows and nothing else: an idea outside it is unpatchable, and what a patched
idea said besides is named in the text before the diff.
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
        """The catalogue: another one reads an idea in another way."""
        catalogue = environment.catalogue_path
        return self.name + (hashlib.sha256(catalogue.read_bytes()).hexdigest() if catalogue else "")

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """A unified diff, after a line for each sentence of the code changes that was not understood.

        Raises:
            PatchError: (unpatchable) no known edit, a bad value, edits that contradict, or no change.
        """
        catalogue = environment_catalogue(environment)
        reading = catalogue.read(idea, base)
        tree = catalogue.apply(base, list(reading.choices))
        if tree == base:
            names = ", ".join(f"{c.key} = {c.value}" for c in reading.choices)
            raise PatchError(f"The idea changes nothing: the baseline already has {names}.")
        ignored = "".join(f"Not understood, and left out: {sentence}\n" for sentence in reading.missed)
        return Implementation(ignored + diff(base, tree))

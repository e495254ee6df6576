"""The seam between an idea and its code: an implementer writes a patch for the baseline.

Whatever it returns goes the same way: parsed, applied in memory, judged by the environment's rules.
"""

from __future__ import annotations

from typing import Protocol

from ideator_rl.environment import Environment
from ideator_rl.ideas import Idea
from ideator_rl.patch import Tree
from ideator_rl.registry import resolve


class Implementer(Protocol):
    name: str
    """Stands in every record that its patches led to."""
    trusted: bool
    """Its code comes from us, not from a model: patches may run where no sandbox works."""

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> str:
        """Patch text for the idea against `base`.

        Raises:
            PatchError: (unpatchable) no patch can be written for this idea; says why.
        """
        ...


def get_implementer(name: str) -> Implementer:
    """An implementer by name (`rules`), entry point, or dotted path of a class without arguments.

    Raises:
        UnknownName: nothing is known by that name.
    """
    return resolve("implementers", BUILT_IN.get(name, name))()


BUILT_IN = {"rules": "ideator_rl.executor.rules.RulesImplementer"}

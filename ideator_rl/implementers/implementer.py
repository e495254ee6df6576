"""The seam between an idea and its code: an implementer writes a patch for the baseline.

Whatever it returns goes the same way: parsed, applied in memory, judged by the environment's rules (`patched_tree`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import Idea
from ideator_rl.llm.estimate import Estimate
from ideator_rl.patch import PatchError, Rules, Tree, apply_patch, judge, names_protected
from ideator_rl.patch.edit import Kind
from ideator_rl.registry import resolve
from ideator_rl.storage.ledger import Ledger


@dataclass(frozen=True)
class Implementation:
    """A patch, and what it cost to have it written."""

    patch: str
    usage: dict[str, float] = field(default_factory=dict)
    """`usd`, `prompt_tokens`, `completion_tokens`, `calls`; empty when nothing was asked."""


class NotImplementable(PatchError):
    """No usable patch came out (unpatchable or rejected), and what it cost to learn that."""

    def __init__(
        self, message: str, kind: Kind = "unpatchable", usage: dict[str, float] | None = None, patch: str = ""
    ):
        super().__init__(message, kind)
        self.usage, self.patch = usage or {}, patch


class ImplementerUnavailable(IdeatorError):
    """Nothing was learned about the idea: the implementer cannot be reached, or its budget is spent.  Ours: `lost`."""


class Implementer(Protocol):
    name: str
    """Stands in every record that its patches led to."""
    trusted: bool
    """Its code comes from us, not from a model: patches may run where no sandbox works."""

    def version(self, environment: Environment) -> str:
        """What its answer to an idea depends on besides idea and baseline; an idea is asked once for each version."""
        ...

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """A patch for the idea against `base`.

        Raises:
            PatchError: (unpatchable, rejected) no patch can be written for this idea; says why.
            ImplementerUnavailable: it could not be asked.
        """
        ...


def patched_tree(base: Tree, patch: str, rules: Rules) -> Tree:
    """The tree that a patch leads to, judged by the rules.

    Raises:
        PatchError: it does not apply (unpatchable), or what it leads to breaks a rule (rejected).
    """
    try:
        tree = apply_patch(base, patch)
    except PatchError as error:
        if name := names_protected(patch, rules):
            raise PatchError(f"the patch touches {name}, which is protected: {error}", "rejected") from error
        raise
    judge(base, tree, rules)
    return tree


def get_implementer(name: str, settings: dict[str, Any] | None = None, ledger: Ledger | None = None) -> Implementer:
    """An implementer by name (`rules`, `llm`, `direct`), entry point, or dotted path of a class.

    A class that has `from_settings(settings, ledger)` is made by it; any other without arguments.

    Raises:
        UnknownName: nothing is known by that name.
        IdeatorError: settings for an implementer that takes none, or unusable ones.
    """
    made = resolve("implementers", name, BUILT_IN)
    if hasattr(made, "from_settings"):
        return made.from_settings(settings or {}, ledger or Ledger())
    if settings:
        raise IdeatorError(
            f"The implementer {name} takes no `coder` settings; got {', '.join(settings)}. Leave them out."
        )
    return made()


def writes_trusted_code(name: str) -> bool:
    """Whether an implementer says that its code is no model's.  Nothing is made, so that no key is needed.

    Raises:
        UnknownName: nothing is known by that name.
    """
    return getattr(resolve("implementers", name, BUILT_IN), "trusted", False) is True


def estimate_cost(
    name: str, settings: dict[str, Any] | None, ideas: int, environment: Environment, preset: str
) -> Estimate | None:
    """What it may cost to have so many ideas implemented; None for an implementer that asks nobody.

    Raises:
        UnknownName: nothing is known by that name.
        IdeatorError: unusable settings.
    """
    made = resolve("implementers", name, BUILT_IN)
    found: Estimate | None = (
        made.estimate(settings or {}, ideas, environment, preset) if hasattr(made, "estimate") else None
    )
    return found


BUILT_IN = {
    "rules": "ideator_rl.implementers.rules.RulesImplementer",
    "direct": "ideator_rl.implementers.direct.DirectImplementer",
    "llm": "ideator_rl.implementers.coder.CoderImplementer",
}

"""An implementer turns an idea into a patch for the baseline; this is the interface that every one of them has.

All patches go the same way, whichever implementer wrote them: parsed, applied in memory, and judged by the
environment's rules (`ideator_rl.patch.patched_tree`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import getattr_static
from typing import Any, Protocol, Self

from ideator_rl.environments.environment import Environment
from ideator_rl.environments.preset import FEEDBACK_NONE
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import Idea
from ideator_rl.llm.estimate import Estimate
from ideator_rl.patch import PatchError, Tree
from ideator_rl.patch.edit import Kind
from ideator_rl.registry import plugin_code, require_members, resolve
from ideator_rl.storage.ledger import Ledger

BUILT_IN = {
    "rules": "ideator_rl.implementers.rules.RulesImplementer",
    "direct": "ideator_rl.implementers.direct.DirectImplementer",
    "llm": "ideator_rl.implementers.coder.CoderImplementer",
    "command": "ideator_rl.implementers.command.CommandImplementer",
}


@dataclass(frozen=True)
class Implementation:
    """A patch, and what it cost."""

    patch: str
    usage: dict[str, float] = field(default_factory=dict)
    """`usd`, `prompt_tokens`, `completion_tokens`, `calls`; empty when no model was called."""


@dataclass(frozen=True)
class Crash:
    """A change whose experiment failed, for an implementer that may mend it."""

    patch: str
    """Against the baseline."""
    tree_hash: str
    """SHA-256 of the patched codebase."""
    words: str
    """The end of its traceback, cleaned and untrusted."""


class NotImplementable(PatchError):
    """There is no usable patch for the idea (unpatchable or rejected); `usage` is what the attempts cost."""

    def __init__(
        self, message: str, kind: Kind = "unpatchable", usage: dict[str, float] | None = None, patch: str = ""
    ):
        super().__init__(message, kind)
        self.usage, self.patch = usage or {}, patch


class ImplementerUnavailable(IdeatorError):
    """The implementer cannot be reached, or its budget is spent: the fault is ours, and the experiment is `lost`."""

    def __init__(self, message: str, permanent: bool = False, repeated: bool = False):
        super().__init__(message)
        self.permanent = permanent
        """No wait cures the cause, such as a wrong key: a run ends after the second such error in a row."""
        self.repeated = repeated
        """The implementer has seen it more than once in a row already: a run ends at once."""


class Implementer(Protocol):
    """What an implementer has.  A class need not derive from this one; the defaults below hold for it all the same."""

    name: str
    """Stored in every record that its patches lead to."""
    trusted: bool = False
    """Whether its code comes from us and not from a model: only then may it run where no sandbox works."""

    @classmethod
    def from_settings(cls, settings: dict[str, Any], ledger: Ledger) -> Self:
        """An instance for a run, from the recipe's `coder` mapping; by default it takes no settings.

        Raises:
            IdeatorError: unusable settings.
        """
        if settings:
            raise IdeatorError(
                f"The implementer {cls.__name__} takes no `coder` settings; got {', '.join(settings)}. Leave them out."
            )
        return cls()

    @staticmethod
    def estimate(settings: dict[str, Any], ideas: int, environment: Environment, preset: str) -> Estimate | None:
        """The cost of so many ideas; None, the default, if no model is called.

        Raises:
            IdeatorError: unusable settings.
        """
        return None

    def version(self, environment: Environment) -> str:
        """What an answer depends on, except idea and baseline.  An idea is implemented once for each version."""
        ...

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        """A patch for the idea against `base`.

        Raises:
            PatchError: (unpatchable, rejected) no patch can be written for this idea; the message gives the reason.
            ImplementerUnavailable: no answer could be had.
        """
        ...

    debug_rounds: int = 0
    """How often an idea whose experiment crashed is given to `debug`."""

    async def debug(
        self, idea: Idea, base: Tree, environment: Environment, preset: str, crash: Crash
    ) -> Implementation:
        """Another patch for an idea, against `base`, after the last one has crashed.  Called only with `debug_rounds`.

        Raises:
            PatchError, ImplementerUnavailable: as `implement`.
        """
        raise NotImplementable("This implementer mends no patches.")

    async def probe(self) -> None:
        """Ask the service for as little as possible, before a run pays for more.  Optional; the default asks nothing.

        Raises:
            IdeatorError: it would not answer: the key, the address or a model is wrong.
        """
        return


def get_implementer(name: str, settings: dict[str, Any] | None = None, ledger: Ledger | None = None) -> Implementer:
    """An implementer by name (`rules`, `llm`, `direct`, `command`), entry point, or dotted path of a class.

    Raises:
        UnknownName: there is no implementer of that name.
        IdeatorError: settings for an implementer that takes none, or unusable ones.
    """
    from_settings = _member(_class_of(name), "from_settings")
    with plugin_code(f"The implementer {name!r}, created with its settings,"):
        implementer: Implementer = from_settings(settings or {}, ledger or Ledger())
    # The default for a class without the base class, and the safe one: its code runs in a sandbox only.
    if not hasattr(implementer, "trusted"):
        implementer.trusted = Implementer.trusted
    return implementer


async def probe(implementer: Implementer) -> None:
    """`Implementer.probe`, also of a class that does not derive from it.

    Raises:
        IdeatorError: the implementer's service would not answer.
    """
    await _member(type(implementer), "probe")(implementer)


def debug_rounds(implementer: Implementer, environment: Environment) -> int:
    """`Implementer.debug_rounds`, also of a class that does not derive from it.

    Raises:
        IdeatorError: a traceback could show the coder what it must not see of this environment.
    """
    rounds: int = _member(implementer, "debug_rounds")
    if rounds and (environment.hidden or environment.feedback == FEEDBACK_NONE):
        reason = "hidden files" if environment.hidden else "feedback: none"
        raise IdeatorError(
            f"The coder has debug_rounds: {rounds}, and the environment {environment.name} has {reason}: a "
            "traceback could show the coder what it must not see. Leave debug_rounds out."
        )
    return rounds


def writes_trusted_code(name: str) -> bool:
    """Whether an implementer declares that no model writes its code.  No instance is created, so no key is needed.

    Raises:
        UnknownName: there is no implementer of that name.
    """
    return _member(_class_of(name), "trusted") is True


def estimate_cost(
    name: str, settings: dict[str, Any] | None, ideas: int, environment: Environment, preset: str
) -> Estimate | None:
    """What it may cost to have so many ideas implemented; None for an implementer that calls no model.

    Raises:
        UnknownName: there is no implementer of that name.
        IdeatorError: unusable settings.
    """
    estimate = _member(_class_of(name), "estimate")
    cost: Estimate | None = estimate(settings or {}, ideas, environment, preset)
    return cost


def _class_of(name: str) -> Any:
    plugin = resolve("implementers", name, BUILT_IN)
    require_members("implementers", name, plugin, "implement")
    return plugin


def _member(plugin: Any, member: str) -> Any:
    """The own member of a plugin, a class or an instance; else the default of `Implementer`, bound to the plugin."""
    default = getattr_static(Implementer, member)
    bound_default = default.__get__(None, plugin) if isinstance(default, classmethod | staticmethod) else default
    return getattr(plugin, member, bound_default)

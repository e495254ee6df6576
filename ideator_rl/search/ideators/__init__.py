"""Ideators for search, by name: `catalogue`, `chat`, `local`, or a class of your own.

A class is created by `from_settings(settings, subject, ledger)`: the recipe's `ideator_options`, what the ideas are
about, and the run's ledger, on which every cost is reserved and booked.  `get_ideator` loads no model.
"""

from __future__ import annotations

from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.registry import plugin_code, resolve
from ideator_rl.search.ideator import Ideator, Subject
from ideator_rl.storage.ledger import Ledger

BUILT_IN = {
    "catalogue": "ideator_rl.search.ideators.catalogue.CatalogueIdeator",
    "chat": "ideator_rl.search.ideators.chat.ChatIdeator",
    "local": "ideator_rl.search.ideators.local.LocalIdeator",
}

PAGE = "docs/how-to/ideators.md describes an ideator of your own"


def get_ideator(name: str, settings: dict[str, Any] | None, subject: Subject, ledger: Ledger | None = None) -> Ideator:
    """An ideator by name, entry point of the group `ideator_rl.ideators`, or dotted path of a class.

    Raises:
        UnknownName: no ideator has this name.
        IdeatorError: the class is no ideator, or does not take these settings.
    """
    kind = resolve("ideators", name, BUILT_IN)
    if not callable(getattr(kind, "from_settings", None)):
        raise IdeatorError(f"The ideator {name} is {kind!r}. Expected a class with `from_settings`; {PAGE}.")
    with plugin_code(f"The ideator {name!r}, created with its settings,"):
        ideator: Ideator = kind.from_settings(settings or {}, subject, ledger or Ledger())
    # Checked now: a class of another kind would fail only after the baseline has run.
    if missing := [member for member in ("name", "ideas", "close") if not hasattr(ideator, member)]:
        raise IdeatorError(f"The ideator {name} has no {' and no '.join(missing)}; {PAGE}.")
    return ideator

"""Ideators for search, by name: `catalogue`, `chat`, `local`, or a class of anybody's.

A class is made by `from_settings(settings, subject, ledger)`: the recipe's mapping, what the ideas are to be about, and
the run's ledger, on which whatever costs something is reserved and booked.  Nothing heavy is imported by naming one.
"""

from __future__ import annotations

from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.registry import resolve
from ideator_rl.search.ideator import Ideator, Subject
from ideator_rl.storage.ledger import Ledger

BUILT_IN = {
    "catalogue": "ideator_rl.search.ideators.catalogue.CatalogueIdeator",
    "chat": "ideator_rl.search.ideators.chat.ChatIdeator",
    "local": "ideator_rl.search.ideators.local.LocalIdeator",
}

PAGE = "docs/how-to/ideators.md says what one of your own has"


def get_ideator(name: str, settings: dict[str, Any] | None, subject: Subject, ledger: Ledger | None = None) -> Ideator:
    """An ideator by name, entry point of the group `ideator_rl.ideators`, or dotted path of a class.

    Raises:
        UnknownName: nothing is known by that name.
        IdeatorError: it is no ideator; settings that it does not take, or that cannot be.
    """
    kind = resolve("ideators", name, BUILT_IN)
    if not callable(getattr(kind, "from_settings", None)):
        raise IdeatorError(f"The ideator {name} is {kind!r}. Expected a class with `from_settings`; {PAGE}.")
    made: Ideator = kind.from_settings(settings or {}, subject, ledger or Ledger())
    if missing := [part for part in ("name", "ideas", "close") if not hasattr(made, part)]:
        raise IdeatorError(f"The ideator {name} has no {' and no '.join(missing)}; {PAGE}.")
    return made

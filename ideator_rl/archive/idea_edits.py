"""Reads ideas as edits of the environment's catalogue, each text once.

Guarantees: reads as the implementer `rules` does, so that two ideas with the same edits are one experiment there.  An
idea that names no edit, or edits that cannot be applied, has none.
"""

from __future__ import annotations

from ideator_rl.environments.catalogue.catalogue import Catalogue, environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import Environment
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.patch import PatchError

Edits = tuple[Choice, ...]
MAX_IDEAS = 50_000
"""Of which the edits are kept in memory."""


class IdeaEdits:
    def __init__(self, environment: Environment, preset: str):
        """
        Raises:
            CatalogueError: the environment has no catalogue.
        """
        self.catalogue: Catalogue = environment_catalogue(environment.at(preset))
        self.base = environment.baseline(preset)
        self._edits_of: dict[str, Edits] = {}

    def of(self, idea: str) -> Edits:
        """The edits that an idea's text names."""
        edits = self._edits_of.get(idea)
        if edits is None:
            try:
                edits = self.catalogue.read(parse_idea(idea), self.base).choices
            except (MalformedIdea, PatchError):
                edits = ()
            # Of a pool, most ideas are never seen again.
            if len(self._edits_of) >= MAX_IDEAS:
                self._edits_of.clear()
            self._edits_of[idea] = edits
        return edits

    def families(self, idea: str) -> tuple[str, ...]:
        """The distinct families of its edits, sorted."""
        return tuple(sorted({self.catalogue.edits[choice.key].family for choice in self.of(idea)}))


_readers: dict[tuple[str, str], IdeaEdits] = {}


def idea_edits(environment: Environment, preset: str) -> IdeaEdits | None:
    """The reader of an environment and preset, created once a process; None without a catalogue."""
    catalogue = environment.at(preset).catalogue_path
    if catalogue is None:
        return None
    key = (str(catalogue), preset)
    if key not in _readers:
        _readers[key] = IdeaEdits(environment, preset)
    return _readers[key]

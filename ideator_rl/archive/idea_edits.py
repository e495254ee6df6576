"""Reads past ideas as edits of the environment's catalogue, each text once.

Guarantees: the reading of the implementer `rules`, so that two ideas with the same edits are the same experiment there.
An idea that names none, or that cannot be applied, has none; so has every idea where there is no catalogue.
"""

from __future__ import annotations

from ideator_rl.environments.catalogue.catalogue import Catalogue, environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import Environment
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.patch import PatchError

Edits = tuple[Choice, ...]


class KnownEdits:
    def __init__(self, environment: Environment, preset: str):
        """
        Raises:
            CatalogueError: the environment has no catalogue.
        """
        self.catalogue: Catalogue = environment_catalogue(environment)
        self.base = environment.baseline(preset)
        self._read: dict[str, Edits] = {}

    def of(self, idea: str) -> Edits:
        """The edits that an idea's words name; none where they name none."""
        found = self._read.get(idea)
        if found is None:
            try:
                found = self.catalogue.read(parse_idea(idea), self.base).choices
            except (MalformedIdea, PatchError):
                found = ()
            self._read[idea] = found
        return found

    def families(self, idea: str) -> tuple[str, ...]:
        """The families of its edits, each once, by name."""
        return tuple(sorted({self.catalogue.edits[choice.key].family for choice in self.of(idea)}))


_open: dict[tuple[str, str], KnownEdits] = {}


def known_edits(environment: Environment, preset: str) -> KnownEdits | None:
    """One for each environment and preset of a process; None where there is no catalogue."""
    if environment.catalogue_path is None:
        return None
    key = (str(environment.catalogue_path), preset)
    if key not in _open:
        _open[key] = KnownEdits(environment, preset)
    return _open[key]

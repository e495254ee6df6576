"""What an environment adds to the figures of a population: its baseline, its catalogue of edits, its known bound.

All of it may be missing: figures that need it are None then.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from ideator_rl.environments.catalogue.catalogue import CatalogueError, environment_catalogue
from ideator_rl.environments.catalogue.edits import Edit
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.patch import Tree
from ideator_rl.patch.cells import cell_of
from ideator_rl.storage.records import Run

_ASSIGNED = re.compile(r"([A-Za-z_][\w.]*)\s*(?::[^=]+)?=(?!=)")


@dataclass(frozen=True)
class Surroundings:
    """What is known around the ideas; the default knows nothing."""

    direction: str = "min"
    """Of the metric, `min` or `max`."""
    base: Tree | None = None
    edits: tuple[Edit, ...] = ()
    """Of the environment's catalogue."""
    bound: float | None = None
    """A metric better than this is more likely a mistake or a cheat than a find."""

    def cell(self, patch: str) -> str:
        return cell_of(patch, self.base)

    def edits_in(self, patch: str) -> set[str]:
        """Keys of the catalogue's edits that a patch has: the setting that it assigns, or all lines that it changes.

        By the code, whoever wrote it: what a coder writes otherwise than the catalogue is not seen.
        """
        lines = [line[0] + line[1:].strip() for line in patch.split("\n") if line[:1] in ("+", "-")]
        changed = set(lines) - {"+", "-"}
        found = {self._settings[name] for line in changed if (name := _assigned(line)) in self._settings}
        whole = [each for each in self._signatures if each.fixed <= changed and each.fits(changed)]
        larger = {one.key for one in whole for other in whole if one.fixed < other.fixed}
        return found | {each.key for each in whole} - larger

    @cached_property
    def _settings(self) -> dict[str, str]:
        return {edit.assign: edit.key for edit in self.edits if edit.assign is not None}

    @cached_property
    def _signatures(self) -> list[_Signature]:
        made = (_signature(edit) for edit in self.edits if edit.assign is None)
        return [each for each in made if each.fixed or each.with_value]

    def better(self, one: float, other: float) -> bool:
        return one < other if self.direction == "min" else one > other


def surroundings(environment: Environment, preset: str) -> Surroundings:
    try:
        edits = tuple(environment_catalogue(environment).edits.values())
    except (CatalogueError, OSError):
        edits = ()
    suspicious = environment.preset(preset).suspicious
    bound = suspicious.beyond if suspicious else None
    return Surroundings(environment.metric.direction, environment.baseline(preset), edits, bound)


def surroundings_of(run: Run) -> Surroundings:
    """Those of a run's environment, or only what its records say, where the environment is not to be had here."""
    name, preset = str(run.recipe.get("env") or ""), str(run.recipe.get("preset") or "cpu")
    try:
        return surroundings(load_environment(name), preset)
    except (IdeatorError, OSError, ValueError):
        return Surroundings(run.direction)


@dataclass(frozen=True)
class _Signature:
    """The lines that an edit of code changes, without indentation, each behind its + or -."""

    key: str
    fixed: frozenset[str]
    with_value: tuple[re.Pattern[str], ...]

    def fits(self, changed: set[str]) -> bool:
        return all(any(pattern.fullmatch(line) for line in changed) for pattern in self.with_value)


def _signature(edit: Edit) -> _Signature:
    taken = Counter(line.strip() for block in edit.blocks for line in block.find)
    put = Counter(line.strip() for block in edit.blocks for line in block.replace)
    lines = {f"+{line}" for line in put - taken} | {f"-{line}" for line in taken - put}
    templates = {line for line in lines if "{value}" in line}
    patterns = (re.escape(line).replace(re.escape("{value}"), r"[-+.\w]+") for line in sorted(templates))
    return _Signature(edit.key, frozenset(lines - templates - {"+", "-"}), tuple(map(re.compile, patterns)))


def _assigned(line: str) -> str:
    match = _ASSIGNED.match(line, 1)
    return match[1] if match else ""

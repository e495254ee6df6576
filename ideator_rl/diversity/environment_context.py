"""What diversity figures use of an environment: its baseline, its catalogue of edits, its bound on the metric.

Each may be missing; the figures that need it are then None.
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
from ideator_rl.storage.run_reader import Run

_ASSIGNED = re.compile(r"([A-Za-z_][\w.]*)\s*(?::[^=]+)?=(?!=)")


@dataclass(frozen=True)
class EnvironmentContext:
    """The default is for an unknown environment."""

    direction: str = "min"
    """Of the metric, `min` or `max`."""
    base: Tree | None = None
    edits: tuple[Edit, ...] = ()
    """All edits of the environment's catalogue."""
    bound: float | None = None
    """A metric better than this is more likely an error or a cheat than a discovery."""

    def cell(self, patch: str) -> str:
        return cell_of(patch, self.base)

    def edits_in(self, patch: str) -> set[str]:
        """Keys of the catalogue's edits that a patch contains: the setting is assigned, or all lines are changed.

        Compares code: an edit that a coder wrote in another way is not found.
        """
        # Indentation is ignored: an edit may be inside another block than in the catalogue.
        lines = [line[0] + line[1:].strip() for line in patch.split("\n") if line[:1] in ("+", "-")]
        changed = set(lines) - {"+", "-"}
        assigned = {self._settings[name] for line in changed if (name := _assigned(line)) in self._settings}
        present = [signature for signature in self._signatures if signature.matches(changed)]
        # An edit whose lines are all in a larger edit's is not counted as well.
        contained = {small.key for small in present for large in present if small.fixed < large.fixed}
        return assigned | {signature.key for signature in present} - contained

    @cached_property
    def _settings(self) -> dict[str, str]:
        return {edit.assign: edit.key for edit in self.edits if edit.assign is not None}

    @cached_property
    def _signatures(self) -> list[_Signature]:
        signatures = (_signature(edit) for edit in self.edits if edit.assign is None)
        return [signature for signature in signatures if signature.fixed or signature.with_value]

    def better(self, value: float, reference: float) -> bool:
        """Whether a metric is better than another one."""
        return value < reference if self.direction == "min" else value > reference


def environment_context(environment: Environment, preset: str) -> EnvironmentContext:
    environment = environment.at(preset)
    try:
        edits = tuple(environment_catalogue(environment).edits.values())
    except (CatalogueError, OSError):
        edits = ()
    suspicious = environment.preset(preset).suspicious
    bound = suspicious.beyond if suspicious else None
    return EnvironmentContext(environment.metric.direction, environment.baseline(preset), edits, bound)


def context_of_run(run: Run) -> EnvironmentContext:
    """The context of a run's environment; only the metric's direction if the environment is not available here."""
    name, preset = str(run.recipe.get("env") or ""), str(run.recipe.get("preset") or "cpu")
    try:
        return environment_context(load_environment(name), preset)
    except (IdeatorError, OSError, ValueError):
        return EnvironmentContext(run.direction)


@dataclass(frozen=True)
class _Signature:
    """The lines that an edit of code changes, without indentation, each after its + or -."""

    key: str
    fixed: frozenset[str]
    """Lines without a value."""
    with_value: tuple[re.Pattern[str], ...]
    """Lines that match with any value."""

    def matches(self, changed: set[str]) -> bool:
        """Whether all its lines are among the changed ones."""
        return self.fixed <= changed and all(
            any(pattern.fullmatch(line) for line in changed) for pattern in self.with_value
        )


def _signature(edit: Edit) -> _Signature:
    removed = Counter(line.strip() for block in edit.blocks for line in block.find)
    added = Counter(line.strip() for block in edit.blocks for line in block.replace)
    lines = {f"+{line}" for line in added - removed} | {f"-{line}" for line in removed - added}
    templates = {line for line in lines if "{value}" in line}
    patterns = (re.escape(line).replace(re.escape("{value}"), r"[-+.\w]+") for line in sorted(templates))
    return _Signature(edit.key, frozenset(lines - templates - {"+", "-"}), tuple(map(re.compile, patterns)))


def _assigned(line: str) -> str:
    match = _ASSIGNED.match(line, 1)
    return match[1] if match else ""

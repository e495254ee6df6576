"""Results to compare with: those of a paper, of people, of a leaderboard, each with its source and its hardware.

An environment names the file with `references:` in its env.yaml.  It is a list of entries with the keys below.
"""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from ideator_rl.config.base import PlainNumber, read_config
from ideator_rl.config.yaml_reader import read_yaml
from ideator_rl.environments.environment import Environment, EnvironmentError_
from ideator_rl.environments.manifest import Line, Name, Section

SECONDS = "seconds_to_target"
"""The metric of an entry that is a time."""


@dataclass(frozen=True, kw_only=True)
class Reference(Section):
    """One result."""

    label: Line
    """What it is a result of."""
    value: PlainNumber
    """The metric, or seconds."""
    metric: Line
    """The environment's metric by its name, or seconds_to_target."""
    source: Line
    """Where it is published."""
    hardware: Line
    """What it was measured on."""
    note: str = ""
    """What keeps it from being compared."""
    presets: list[Name] = Field(default_factory=list)
    """Presets that it is shown beside; empty for all."""


def references(environment: Environment, preset: str) -> tuple[Reference, ...]:
    """The results to compare a preset with, in the order of the file; empty for an environment without any.

    Raises:
        EnvironmentError_: the file is not readable, or an entry is not as expected.
    """
    if environment.references is None:
        return ()
    path = environment.root / environment.references
    raw = read_yaml(path, error=EnvironmentError_)
    if not isinstance(raw, list):
        raise EnvironmentError_(f"{path} must be a list of results, got {type(raw).__name__}.")
    entries = [read_config(Reference, entry, f"{path}, entry {number}, has", EnvironmentError_)
               for number, entry in enumerate(raw, 1)]  # fmt: skip
    metrics = (environment.metric.name, SECONDS)
    for number, entry in enumerate(entries, 1):
        unknown = [
            *({entry.metric} - set(metrics)),
            *(name for name in entry.presets if name not in environment.presets),
        ]
        if unknown:
            raise EnvironmentError_(
                f"{path}, entry {number}, is about {unknown[0]!r}. Expected {' or '.join(metrics)} as its metric, and "
                f"presets of {', '.join(environment.presets)}."
            )
    return tuple(entry for entry in entries if not entry.presets or preset in entry.presets)

"""Runs that differ in their seed only are one group: a mean with the range of its seeds, not several curves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from ideator_rl.report.progress import Curve
from ideator_rl.report.sections import Section
from ideator_rl.storage.records import Run
from ideator_rl.text import without_secrets

PLACES = frozenset((
    "seed", "output_dir", "bucket", "run_name", "logging_dir", "project", "data_seed", "report_to", "slots",
))  # fmt: skip
"""Keys of a recipe that say where, how many at once, and under which name, not how."""
POINTS = 400
"""Places on an axis where a band is drawn."""


@dataclass(frozen=True)
class Group:
    name: str
    members: list[Section]

    @property
    def seeds(self) -> list[Any]:
        """Of each member; None where its recipe names none."""
        return [section.run.recipe.get("seed") for section in self.members]


@dataclass(frozen=True)
class Band:
    """Mean of a group and its lowest and highest member, as far as all its members go."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def comparable(sections: Sequence[Section]) -> list[list[Section]]:
    """Runs that measured the same thing, together: metric, environment, preset and hardware."""
    found: dict[tuple[str, ...], list[Section]] = {}
    for section in sections:
        run = section.run
        setting = sorted({f"{e.environment} {e.preset} {e.hardware}" for e in run.experiments.values()})
        found.setdefault((run.metric, run.direction, *setting), []).append(section)
    return list(found.values())


def groups(sections: Sequence[Section]) -> list[Group]:
    """In the order of their first runs; a run without a recipe is a group of its own."""
    found: dict[str, list[Section]] = {}
    for place, section in enumerate(sections):
        found.setdefault(_how(section.run) or f"run {place}", []).append(section)
    made = list(found.values())
    return [Group(name, members) for name, members in zip(_names(made), made, strict=True)]


def differing(found: Sequence[Group]) -> dict[str, list[str]]:
    """Keys of the recipes that are not the same in all groups, each with its value by group."""
    recipes = [without_secrets(group.members[0].run.recipe) for group in found]
    keys = list(dict.fromkeys(key for recipe in recipes for key in recipe if key not in PLACES))
    shown = {key: [str(recipe.get(key, "–")) for recipe in recipes] for key in keys}
    return {key: values for key, values in shown.items() if len(set(values)) > 1}


def band(members: Sequence[Section], curve: Callable[[Run], Curve]) -> Band:
    """The curves of a group's members, put together; empty where not all of them have a value."""
    curves = [curve(section.run) for section in members]
    if not all(one.x for one in curves):
        return Band([], [], [], [])
    first, end = max(one.x[0] for one in curves), min(one.end for one in curves)
    places = sorted({x for one in curves for x in one.x if first <= x <= end} | {first, end}) if first <= end else []
    if len(places) > POINTS:
        keep = {round(i * (len(places) - 1) / (POINTS - 1)) for i in range(POINTS)}
        places = [x for i, x in enumerate(places) if i in keep]
    columns = [[value for one in curves if (value := one.at(x)) is not None] for x in places]
    return Band(
        places, [mean(some) for some in columns], [min(some) for some in columns], [max(some) for some in columns]
    )


def _how(run: Run) -> str:
    kept = {key: value for key, value in run.recipe.items() if key not in PLACES}
    return json.dumps(kept, sort_keys=True, default=str) if run.recipe else ""


def _names(found: Sequence[list[Section]]) -> list[str]:
    """By what the members' names share; no two groups have one name."""
    names: list[str] = []
    for way in (_shared_start, _shared_end, _first):
        names = [members[0].name if len(members) == 1 else way(members) for members in found]
        if len(set(names)) == len(names):
            break
    return names


def _shared_start(members: list[Section]) -> str:
    """Without a seed's number."""
    shared = re.sub(r"[\W_]*(seed|s)?[\W_]*\d*[\W_]*$", "", os.path.commonprefix([one.name for one in members]))
    return f"{shared or members[0].run.folder.absolute().parent.name} ({len(members)} seeds)"


def _shared_end(members: list[Section]) -> str:
    shared = re.sub(r"^[\W_\d]+", "", os.path.commonprefix([one.name[::-1] for one in members])[::-1])
    return f"{shared} ({len(members)} seeds)" if shared else _first(members)


def _first(members: list[Section]) -> str:
    return f"{members[0].name} and {len(members) - 1} more"

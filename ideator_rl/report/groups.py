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
from ideator_rl.report.run_view import RunView
from ideator_rl.storage.run_reader import Run

PLACE_KEYS = frozenset((
    "seed", "output_dir", "bucket", "run_name", "logging_dir", "project", "data_seed", "report_to", "slots",
))  # fmt: skip
"""Keys of a recipe that set where a run happens, how many at once, and under which name, but not how it searches."""
MAX_POINTS = 400
"""Points of a band, at most."""


@dataclass(frozen=True)
class Group:
    """Runs of one recipe."""

    name: str
    members: list[RunView]

    @property
    def seeds(self) -> list[Any]:
        """Of each member; None where its recipe has none."""
        return [view.run.recipe.get("seed") for view in self.members]


@dataclass(frozen=True)
class SeedBand:
    """Mean of a group with its lowest and highest member, as far as the curves of all members go."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def comparable(views: Sequence[RunView]) -> list[list[RunView]]:
    """Runs that measured the same thing, together: metric, environment, preset and hardware."""
    by_setting: dict[tuple[str, ...], list[RunView]] = {}
    for view in views:
        run = view.run
        settings = sorted({f"{e.environment} {e.preset} {e.hardware}" for e in run.experiments.values()})
        by_setting.setdefault((run.metric, run.direction, *settings), []).append(view)
    return list(by_setting.values())


def groups(views: Sequence[RunView]) -> list[Group]:
    """In the order of their first runs; a run without a recipe is a group of its own."""
    by_recipe: dict[str, list[RunView]] = {}
    for index, view in enumerate(views):
        by_recipe.setdefault(_recipe_key(view.run) or f"run {index}", []).append(view)
    members = list(by_recipe.values())
    return [Group(name, views) for name, views in zip(_names(members), members, strict=True)]


def different_keys(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Keys of the recipes that are not the same in all groups, each with its value by group."""
    recipes = [group.members[0].public_recipe for group in groups]
    keys = list(dict.fromkeys(key for recipe in recipes for key in recipe if key not in PLACE_KEYS))
    values_by_key = {key: [str(recipe.get(key, "–")) for recipe in recipes] for key in keys}
    return {key: values for key, values in values_by_key.items() if len(set(values)) > 1}


def seed_band(members: Sequence[RunView], curve: Callable[[Run], Curve]) -> SeedBand:
    """The curves of a group's members, put together; empty where not all of them have a value."""
    curves = [curve(view.run) for view in members]
    if not all(member.x for member in curves):
        return SeedBand([], [], [], [])
    start, end = max(member.x[0] for member in curves), min(member.end for member in curves)
    points = {x for member in curves for x in member.x if start <= x <= end} | {start, end} if start <= end else set()
    x_values = sorted(points)
    # Evenly thinned by index: a band of thousands of points would make the page slow.
    if len(x_values) > MAX_POINTS:
        indices = {round(i * (len(x_values) - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS)}
        x_values = [x_values[i] for i in sorted(indices)]
    columns = [[value for member in curves if (value := member.at(x)) is not None] for x in x_values]
    return SeedBand(
        x_values, [mean(column) for column in columns], [min(column) for column in columns],
        [max(column) for column in columns],
    )  # fmt: skip


def _recipe_key(run: Run) -> str:
    """What must be equal in two runs of one group."""
    settings = {key: value for key, value in run.recipe.items() if key not in PLACE_KEYS}
    return json.dumps(settings, sort_keys=True, default=str) if run.recipe else ""


def _names(groups: Sequence[list[RunView]]) -> list[str]:
    """By what the members' names share; no two groups have one name."""
    names: list[str] = []
    for group_name in (_shared_start, _shared_end, _first_name):
        names = [members[0].name if len(members) == 1 else group_name(members) for members in groups]
        if len(set(names)) == len(names):
            break
    return names


def _shared_start(members: list[RunView]) -> str:
    """Without a seed's number."""
    prefix = os.path.commonprefix([view.name for view in members])
    shared = re.sub(r"[\W_]*(seed|s)?[\W_]*\d*[\W_]*$", "", prefix)
    return f"{shared or members[0].run.folder.absolute().parent.name} ({len(members)} seeds)"


def _shared_end(members: list[RunView]) -> str:
    suffix = os.path.commonprefix([view.name[::-1] for view in members])[::-1]
    shared = re.sub(r"^[\W_\d]+", "", suffix)
    return f"{shared} ({len(members)} seeds)" if shared else _first_name(members)


def _first_name(members: list[RunView]) -> str:
    return f"{members[0].name} and {len(members) - 1} more"

"""A catalogue: the edits of an environment's baseline that rules can read, write about, and apply.

`edits.yaml` in the environment's folder holds phrasings and code of each edit.  The implementer `rules` reads ideas
with it; a format warm-up samples ideas from it.  Nothing here runs or imports an experiment.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ideator_rl.config.yaml_reader import read_yaml
from ideator_rl.environments.catalogue.edits import Block, Choice, Edit, Parameter, assignment, merge
from ideator_rl.environments.catalogue.reading import Reading, read
from ideator_rl.environments.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import Idea
from ideator_rl.patch import Tree

_KEYS = {
    "kind",
    "family",
    "assign",
    "value",
    "names",
    "up",
    "down",
    "weak",
    "absent",
    "absent_value",
    "guard",
}
_KEYS |= {"unless", "says", "changes", "patch"}


class CatalogueError(IdeatorError):
    """An edits.yaml that is not usable."""


@dataclass(frozen=True)
class Catalogue:
    file: str
    """The one file of the tree that the edits change."""
    edits: dict[str, Edit]

    def read(self, idea: Idea, base: Tree) -> Reading:
        """The edits that an idea's text names, with their values.

        Raises:
            PatchError: (unpatchable) no known edit, a value out of range, or two values for one number.
        """
        return read(self.edits, idea, self._baseline_numbers(base))

    def apply(self, tree: Tree, choices: list[Choice]) -> Tree:
        """The tree with all these edits, in any order.

        Raises:
            PatchError: (unpatchable) an edit does not fit the text, or two contradict each other.
        """
        lines = tree[self.file].split("\n")
        order = list(self.edits)
        chosen = sorted(set(choices), key=lambda c: (order.index(c.key), str(c.value)))
        changes = [change for c in chosen for change in self.edits[c.key].located(lines, c.value)]
        return {**tree, self.file: "\n".join(merge(lines, changes))}

    def describe(self, choices: list[Choice], rng: random.Random) -> Idea:
        """An idea that names these edits; phrasings and number formats vary with the generator."""
        values = [_spell(choice.value, rng) for choice in choices]
        experiment = [rng.choice(self.edits[choice.key].says) for choice in choices]
        changes = [rng.choice(self.edits[choice.key].changes) for choice in choices]
        return Idea(_fill(experiment, values), _fill(changes, values))

    def sample(self, rng: random.Random, n_edits: int) -> list[Choice]:
        """Choices of `n_edits` edits from different families, with values."""
        families: dict[str, list[Edit]] = {}
        for edit in self.edits.values():
            families.setdefault(edit.family, []).append(edit)
        picked = rng.sample(sorted(families), min(n_edits, len(families)))
        edits = [rng.choice(families[family]) for family in picked]
        return [Choice(e.key, rng.choice(e.parameter.sample) if e.parameter else None) for e in edits]

    def _baseline_numbers(self, base: Tree) -> dict[str, float]:
        """The baseline's value of every number edit, by key."""
        lines = base[self.file].split("\n")
        return {
            edit.key: float(assignment(lines, edit.assign, edit.key)[1]["old"])
            for edit in self.edits.values()
            if edit.assign is not None
        }


@cache
def load_catalogue(path: Path) -> Catalogue:
    """Read an edits.yaml, once a process.

    Raises:
        CatalogueError: a key is unknown or missing, or a pattern does not compile.
    """
    raw = read_yaml(path, error=CatalogueError)
    try:
        return Catalogue(raw["file"], {key: _edit(key, body) for key, body in raw["edits"].items()})
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise CatalogueError(f"{path} is not a catalogue of edits: {type(error).__name__}: {error}.") from error


def environment_catalogue(environment: Environment) -> Catalogue:
    """Raises: CatalogueError when the environment has none."""
    if environment.catalogue_path is None:
        raise CatalogueError(
            f"The environment {environment.name} has no catalogue of edits, which the implementer 'rules' and the "
            "ideator 'catalogue' need. Add edits.yaml and name it in env.yaml, or choose another."
        )
    return load_catalogue(environment.catalogue_path)


THOUGHTS = (
    "The run is short, so {family} matters.",
    "Try the {family}.",
    "The {family} of the baseline is plain.",
    "Something in the {family} may better the result.",
    "Few steps: look at the {family}.",
)


def idea_corpus(environment: Environment, n: int, seed: int) -> list[str]:
    """Sampled ideas of one to three edits, in the form that `parse_idea` reads; half have a short thought."""
    catalogue, rng = environment_catalogue(environment), random.Random(seed)
    texts = []
    for _ in range(n):
        choices = catalogue.sample(rng, rng.choice((1, 1, 1, 2, 2, 3)))
        thought = rng.choice(THOUGHTS).format(family=catalogue.edits[choices[0].key].family)
        idea = catalogue.describe(choices, rng).text
        texts.append(f"{thought} {idea}" if rng.random() < 0.5 else idea)
    return texts


def _edit(key: str, body: dict[str, Any]) -> Edit:
    unknown = set(body) - _KEYS
    if unknown:
        raise ValueError(f"the edit {key} has unknown keys {', '.join(sorted(unknown))}")
    return Edit(
        key=key,
        kind=body["kind"],
        family=body["family"],
        says=tuple(body["says"]),
        changes=tuple(body["changes"]),
        names=_patterns(body["names"]),
        assign=body.get("assign"),
        blocks=tuple(Block(_block(b["find"]), _block(b["replace"])) for b in body.get("patch", [])),
        parameter=_parameter(body["value"]) if "value" in body else None,
        up=_patterns(body.get("up", [])),
        down=_patterns(body.get("down", [])),
        absent=_patterns(body.get("absent", [])),
        absent_value=body.get("absent_value"),
        guard=re.compile(body["guard"]) if "guard" in body else None,
        unless=tuple(body.get("unless", [])),
        weak=_patterns(body.get("weak", [])),
    )


def _parameter(body: dict[str, Any]) -> Parameter:
    low, high = body["range"]
    return Parameter(body["type"] == "int", low, high, tuple(body["sample"]), body.get("default"))


def _patterns(patterns: list[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)


def _block(text: str) -> tuple[str, ...]:
    return tuple(text.removesuffix("\n").split("\n")) if text else ()


def _spell(value: float | int | None, rng: random.Random) -> str:
    if isinstance(value, float) and 0 < value < 0.01 and rng.random() < 0.5:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return "" if value is None else repr(value)


def _fill(sentences: list[str], values: list[str]) -> str:
    return " ".join(s.replace("{value}", value) for s, value in zip(sentences, values, strict=True))

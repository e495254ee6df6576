"""Edits as text: the tokens of an idea, and the lines of the listing file that is its codebase."""

from __future__ import annotations

import re

from ideator_rl.envs.landscape.landscape import KNOBS, MOST_EDITS, VALUES, Edit

FILE = "edits.yaml"
_TOKEN = re.compile(r"k(\d\d)v(\d)")
_LINE = re.compile(r"k(\d\d): (\d)")


class NotAnIdea(ValueError):
    """The text is no list of edits; says why."""


def read(text: str) -> list[Edit]:
    """The edits that an idea spells, such as `k01v2 k07v0`.

    Raises:
        NotAnIdea: a word is no edit, knobs do not ascend, or there are none or too many.
    """
    found = [_edit(word, _TOKEN) for word in text.split()]
    if not 1 <= len(found) <= MOST_EDITS:
        raise NotAnIdea(f"The idea has {len(found)} edits; expected 1 to {MOST_EDITS}.")
    for (knob, _), (following, _) in zip(found, found[1:], strict=False):
        if following <= knob:
            raise NotAnIdea(f"k{following:02d} stands after k{knob:02d}; expected each knob once, ascending.")
    return found


def listed(text: str) -> list[Edit]:
    """The edits that a listing file holds.

    Raises:
        NotAnIdea: a line is no setting, a knob is set twice, or too many are set.
    """
    lines = (line.strip() for line in text.split("\n"))
    found = [_edit(line, _LINE) for line in lines if line and not line.startswith("#")]
    if len({knob for knob, _ in found}) != len(found) or len(found) > MOST_EDITS:
        raise NotAnIdea(f"The listing has {len(found)} settings; expected at most {MOST_EDITS}, each knob once.")
    return found


def listing(base: str, edits: list[Edit]) -> str:
    """The listing file with these edits after what it holds."""
    return base + "".join(f"k{knob:02d}: {value}\n" for knob, value in edits)


def _edit(word: str, form: re.Pattern[str]) -> Edit:
    match = form.fullmatch(word)
    knob, value = (int(match[1]), int(match[2])) if match else (KNOBS, VALUES)
    if knob >= KNOBS or value >= VALUES:
        raise NotAnIdea(f"{word[:40]!r} is no edit: expected k00v0 to k{KNOBS - 1}v{VALUES - 1}.")
    return knob, value
